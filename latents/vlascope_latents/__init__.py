"""What to capture from a policy and what it costs; `vlascope_latents.store` keeps it. Imports no JAX."""

from vlascope_latents.layout import ExpertLayout, LatentLayout, Span
from vlascope_latents.plan import (
    CampaignCost,
    CapturePlan,
    ExpertPlan,
    TensorPlan,
    TokenGroup,
    campaign_cost,
    plan_capture,
)
from vlascope_latents.spec import (
    COMPONENTS,
    EXPERTS,
    FLOW_COMPONENTS,
    TOKEN_COMPONENTS,
    CaptureSpec,
    CaptureSpecError,
)

__all__ = [
    "COMPONENTS",
    "EXPERTS",
    "FLOW_COMPONENTS",
    "TOKEN_COMPONENTS",
    "CampaignCost",
    "CapturePlan",
    "CaptureSpec",
    "CaptureSpecError",
    "ExpertLayout",
    "ExpertPlan",
    "LatentLayout",
    "Span",
    "TensorPlan",
    "TokenGroup",
    "campaign_cost",
    "plan_capture",
]
