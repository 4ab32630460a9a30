"""Every resource of the API but the hot paths: a file each, a line each."""

from __future__ import annotations

from bessemer.app.chat import Serving
from bessemer.app.platform import Platform
from bessemer.gateway import (
    admin_keys,
    audit_logs,
    eval_runs,
    evals,
    files,
    invites,
    model_permissions,
    project_keys,
    projects,
    service_accounts,
    users,
)
from bessemer.gateway.routes import Route


def resource_routes(platform: Platform, serving: Serving | None = None) -> list[Route]:
    return [
        *evals.routes(platform),
        *eval_runs.routes(platform, serving),
        *files.routes(platform),
        *projects.routes(platform),
        *project_keys.routes(platform),
        *service_accounts.routes(platform),
        *users.routes(platform),
        *model_permissions.routes(platform),
        *admin_keys.routes(platform),
        *invites.routes(platform),
        *audit_logs.routes(platform),
    ]
