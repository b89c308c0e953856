"""What settings may not say together, and what they open to whom."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ccproxy_flask.errors import SettingsError

if TYPE_CHECKING:
    from .options import Settings


def refuse_contradictions(settings: Settings) -> None:
    """Raise SettingsError where two settings cannot be meant together."""
    shown = settings.observability
    if shown.dashboard_enabled and not shown.logs_endpoints_enabled:
        raise SettingsError(
            "OBSERVABILITY__DASHBOARD_ENABLED needs OBSERVABILITY__LOGS_ENDPOINTS_ENABLED"
        )
    wants_store = shown.logs_endpoints_enabled or shown.logs_collection_enabled
    if wants_store and shown.log_storage_backend == "none":
        raise SettingsError(
            "OBSERVABILITY__LOG_STORAGE_BACKEND=none contradicts logs endpoints and collection"
        )
    _refuse_half_a_lake(settings)
    if settings.scheduler.pushgateway_enabled and shown.pushgateway_url is None:
        raise SettingsError("SCHEDULER__PUSHGATEWAY_ENABLED needs OBSERVABILITY__PUSHGATEWAY_URL")
    if has_operator_pages(settings) and not is_loopback(settings.host):
        refuse_open_pages(settings, settings.host)


def _refuse_half_a_lake(settings: Settings) -> None:
    if settings.observability.log_storage_backend != "ducklake":
        return
    lake = settings.observability.lake
    needed = ["catalog", "data"]
    if lake.data is not None and lake.data.startswith("s3://"):
        needed += ["s3_access_key_id", "s3_secret_access_key"]
    for name in needed:
        if getattr(lake, name) is None:
            where = "" if name in ("catalog", "data") else " with s3://"
            raise SettingsError(
                f"OBSERVABILITY__LOG_STORAGE_BACKEND=ducklake{where} needs "
                f"OBSERVABILITY__LAKE__{name.upper()}"
            )


def has_operator_pages(settings: Settings) -> bool:
    """True where `/logs`, `/dashboard` or `/metrics` is served."""
    shown = settings.observability
    return bool(
        shown.logs_endpoints_enabled or shown.dashboard_enabled or shown.metrics_endpoint_enabled
    )


def refuse_open_pages(settings: Settings, host: str) -> None:
    """Raise SettingsError where operator pages would be open to other machines."""
    if settings.security.auth_token is None:
        raise SettingsError(
            f"CCPROXY_HOST: {host} is not a loopback address: set SECURITY__AUTH_TOKEN, "
            "or turn the operator pages off"
        )


def is_loopback(host: str) -> bool:
    """True where only this machine can reach *host*."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost") or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def shown_by_profile(settings: Settings) -> dict[str, bool]:
    """Return what the profile turns on of the flags that *settings* leave open."""
    shown = settings.observability
    is_safe = is_loopback(settings.host) or settings.security.auth_token is not None
    if settings.profile != "local" or not is_safe:
        return {}
    flags = ["metrics_endpoint_enabled"]
    if shown.log_storage_backend != "none":
        flags += ["logs_collection_enabled", "logs_endpoints_enabled"]
        # The dashboard is made of the logs.
        if shown.logs_endpoints_enabled or "logs_endpoints_enabled" not in shown.model_fields_set:
            flags.append("dashboard_enabled")
    return {name: True for name in flags if name not in shown.model_fields_set}
