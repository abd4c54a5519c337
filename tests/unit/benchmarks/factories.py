"""Records, results and answers as tests need them."""

from benchmarks.netlink.probe import Probed
from benchmarks.reports.records import Description, RunRecord
from benchmarks.scenarios.loading import load_scenario


def record(policy: str = "cloud", seed: int = 0, **fields: object) -> RunRecord:
    drafts = policy not in ("cloud", "local")
    given = {
        "scenario": "fast-edge",
        "seed": seed,
        "dataset": "humaneval",
        "prompt": "p",
        "policy": policy,
        "wire": "thin" if drafts else None,
        "mode": "offload" if drafts else None,
        "num_tokens": 10,
        "total_s": 1.0,
        "ttft_s": 0.1,
        "gaps_ms": [10.0, 20.0, 30.0],
        "target_passes": 5.0 if drafts else 10.0,
        "up_bytes": 1000,
        "server_cpu_s": 0.5,
    }
    if drafts:
        given |= {"drafts_sent": 20, "drafts_verified": 16, "drafts_accepted": 8, "drafts_discarded": 4}
        given |= {"draft_bytes": 170}
    given |= fields
    return RunRecord(**given)  # type: ignore[arg-type]


def description(name: str = "fast-edge") -> Description:
    return Description(
        scenario=load_scenario(name),
        draft="a <draft>",
        target="a target",
        link="a link",
        probed=Probed(30.0, 19.0, 170.0),
        num_tokens=10,
        num_prompts=1,
        num_seeds=3,
        settings={"max_ahead": 16},
        machine={"cores": 2},
        command="pipesd bench run",
    )
