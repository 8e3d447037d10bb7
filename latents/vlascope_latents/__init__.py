"""What to capture from a policy and what it costs; `vlascope_latents.store` keeps it. Imports no JAX."""

from vlascope_latents.layout import Blocks, Component, ExpertLayout, ModelLayout, Span, flow_components, transformer
from vlascope_latents.plan import CampaignCost, CapturePlan, SitePlan, TensorPlan, campaign_cost, plan_capture
from vlascope_latents.profiles import PROFILES, Profile
from vlascope_latents.site import CaptureSpecError, Site
from vlascope_latents.spec import COMPONENTS, FLOW_COMPONENTS, TOKEN_COMPONENTS, CaptureSpec
from vlascope_latents.tokens import TokenGroup

__all__ = [
    "COMPONENTS",
    "FLOW_COMPONENTS",
    "PROFILES",
    "TOKEN_COMPONENTS",
    "Blocks",
    "CampaignCost",
    "CapturePlan",
    "CaptureSpec",
    "CaptureSpecError",
    "Component",
    "ExpertLayout",
    "ModelLayout",
    "Profile",
    "Site",
    "SitePlan",
    "Span",
    "TensorPlan",
    "TokenGroup",
    "campaign_cost",
    "flow_components",
    "plan_capture",
    "transformer",
]
