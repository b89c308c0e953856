"""The store of several machines: a lake of Parquet files, with its catalogue in PostgreSQL.

Only the factory comes here, and only where the settings say so: the packages that this needs are an
optional extra.
"""
