"""What was said: requests and answers, byte for byte, without secrets, each part once.

A worker hands bytes on (:mod:`.handover`); the storage plane takes them (:mod:`.intake`), makes
of them what is kept (:mod:`.assembly`) and keeps it by day (:mod:`.store`).
"""
