"""The claims of the notebook that can be checked: what is measured, what decides, and what the runs say."""

from repro.analysis.claims import costs, models
from repro.analysis.claims.evidence import Claim, Evidence, Finding, Word

__all__ = ["CLAIMS", "Claim", "Evidence", "Finding", "Word", "judge"]

CLAIMS: tuple[Claim, ...] = (*costs.CLAIMS, *models.CLAIMS)


def judge(evidence: Evidence) -> list[tuple[Claim, Finding]]:
    """Return each claim with its finding, which names the run or the measurement that is missing."""
    return [(claim, claim.finding(evidence)) for claim in CLAIMS]
