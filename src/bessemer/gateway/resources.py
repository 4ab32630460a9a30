"""Every resource of the API but the hot paths: a file each, a line each."""

from __future__ import annotations

from bessemer.app.background import Background
from bessemer.app.chat import Serving
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.gateway import (
    admin_keys,
    audit_logs,
    batches,
    conversations,
    eval_runs,
    evals,
    feedback,
    files,
    fine_tuning,
    graders,
    invites,
    model_permissions,
    project_keys,
    projects,
    rate_limits,
    responses,
    service_accounts,
    spend_alerts,
    spend_limits,
    stored_completions,
    uploads,
    usage,
    users,
)
from bessemer.gateway.routes import Route


def resource_routes(
    platform: Platform,
    *,
    serving: Serving | None = None,
    meter: Meter | None = None,
    background: Background | None = None,
    latencies: Latencies | None = None,
) -> list[Route]:
    """The routes; those that ask models do so through `serving`, and `meter` counts it.

    Args:
        latencies: where responses note how long they took, as `asgi.build` is given them.
    """
    return [
        *files.routes(platform),
        *uploads.routes(platform),
        *batches.routes(platform),
        *feedback.routes(platform),
        *stored_completions.routes(platform),
        *responses.routes(platform, serving, background, meter, latencies),
        *conversations.routes(platform),
        *fine_tuning.routes(platform, serving),
        *graders.routes(serving, meter),
        *evals.routes(platform),
        *eval_runs.routes(platform, serving),
        *projects.routes(platform),
        *project_keys.routes(platform),
        *service_accounts.routes(platform),
        *users.routes(platform),
        *model_permissions.routes(platform),
        *admin_keys.routes(platform),
        *invites.routes(platform),
        *audit_logs.routes(platform),
        *usage.routes(platform, meter),
        *spend_limits.routes(platform, meter),
        *spend_alerts.routes(platform, meter),
        *rate_limits.routes(platform, meter),
    ]
