#!/bin/sh
# Three servers on one host that keep their records in one lake: each has a folder and a port of its own.
# Needs `make lake`, PostgreSQL, and in the environment:
#   OBSERVABILITY__LAKE__CATALOG   postgresql://user:password@host/database
#   OBSERVABILITY__LAKE__DATA      a directory, or s3://bucket/prefix
#   HOMES                          where the servers' folders are (default: /var/lib/ccproxy)
#   CCPROXY                        the command (default: .venv/bin/ccproxy-flask)
#   PORTS                          their ports (default: 8001 8002 8003)
# With SIGTERM, or when one of them ends, all of them end. nginx before them: lake.nginx.conf.
set -eu
cd "$(dirname "$0")/.."
: "${OBSERVABILITY__LAKE__CATALOG:?}" "${OBSERVABILITY__LAKE__DATA:?}"
export OBSERVABILITY__LOG_STORAGE_BACKEND=ducklake
servers=""
for port in ${PORTS:-8001 8002 8003}; do
    home="${HOMES:-/var/lib/ccproxy}/$port"
    mkdir -p "$home"
    # shellcheck disable=SC2086  # a command of several words
    OBSERVABILITY__NODE="server-$port" OBSERVABILITY__DUCKDB_PATH="$home/metrics.duckdb" \
        CCPROXY_PORT="$port" ${CCPROXY:-.venv/bin/ccproxy-flask} serve &
    servers="$servers $!"
done
# shellcheck disable=SC2086  # a list of process ids
trap 'kill $servers 2>/dev/null || true; wait; exit 0' TERM INT
for server in $servers; do wait "$server" || true; done
