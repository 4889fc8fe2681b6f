"""Every sentence of the text that can be checked: what is measured, what decides, and what came of it."""

from repro.analysis.claims import costs, generated, gradients
from repro.analysis.claims.claim import Claim, Evidence, Finding, Word

__all__ = ["CLAIMS", "Claim", "Evidence", "Finding", "Word", "judge"]

CLAIMS: tuple[Claim, ...] = (*costs.CLAIMS, *gradients.CLAIMS, *generated.CLAIMS)


def judge(evidence: Evidence) -> list[tuple[Claim, Finding]]:
    """Each claim with what the evidence says of it; one that lacks a run or a measurement says which."""
    return [(claim, claim.finding(evidence)) for claim in CLAIMS]
