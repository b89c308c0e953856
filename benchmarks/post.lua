-- The small request that wrk repeats; the same as BODY of client.py.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-benchmark"
wrk.headers["User-Agent"] = "benchmark"
wrk.body = '{"model":"gpt-5.1","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Hello!"}]}'
