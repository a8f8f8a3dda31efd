"""How the machine stands: numbers from /proc and /sys, and the breaker that refuses calls under pressure.

Owns the sampling and the thresholds. Knows nothing of calls or records: a guard asks the breaker, the
runtime records the samples. Unknown is None, never 0.
"""

from custody.host.breaker import Breaker, BreakerThresholds, Reading, Refusal
from custody.host.gpu import Gpu
from custody.host.processes import ProcessSummary, TopProcess
from custody.host.telemetry import HostSample, Sampler, sample_data

__all__ = [
    "Breaker",
    "BreakerThresholds",
    "Gpu",
    "HostSample",
    "ProcessSummary",
    "Reading",
    "Refusal",
    "Sampler",
    "TopProcess",
    "sample_data",
]
