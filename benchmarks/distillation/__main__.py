"""See the package."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.distillation import __doc__ as about
from benchmarks.distillation import products, setup
from nas.training_cost import flops_per_token

ROUNDS = 3
SPEED, MEMORY, SHARE_OF_GAIN = 1.6, 0.3, 0.9


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(_side(sys.argv[1], Path(sys.argv[2]))))
        return
    print((about or "").splitlines()[0])
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, load average {os.getloadavg()[0]:.1f}")
    measured: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setup.packed_tokens(folder)
        answers = _in_a_process("answers", folder) or {}
        print(f"the teacher's answers: {answers['bytes']:,.0f} bytes, {answers['predicted']:,.0f} predicted")
        for number in range(1, ROUNDS + 1):
            for side in ("limit", "live", "cached", "trainer", "trl"):
                if (found := _in_a_process(side, folder)) is not None:
                    measured.setdefault(side, []).append(found)
                    print(f"round {number} of {ROUNDS}: {side:8} {_told(found)}", flush=True)
    _report(measured, answers["bytes"] / answers["predicted"])


def _told(found: dict[str, float]) -> str:
    memory = f"  {found['memory'] / 2**20:,.0f} MiB above the models" if "memory" in found else ""
    return f"{found['seconds']:.3f} s a step{memory}"


def _in_a_process(side: str, folder: Path) -> dict[str, float] | None:
    command = [sys.executable, "-m", "benchmarks.distillation", side, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        if side != "trl":
            raise RuntimeError(f"{side}: {ran.stderr[-2000:]}")
        print(f"{side} does not run: {ran.stderr.strip().splitlines()[-1]}")
        return None
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _side(name: str, folder: Path) -> dict[str, float]:
    torch.set_num_threads(setup.THREADS)
    if name == "limit":
        return {"seconds": products.seconds()}
    from benchmarks.distillation import sides

    if name == "answers":
        written, predicted = sides.write_answers(folder)
        return {"bytes": written, "predicted": predicted}
    models = 0

    def loaded() -> None:
        nonlocal models
        models = setup.memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # The peak counts from here.

    began = sides.SIDES[name](folder, loaded)
    steps = [after.at - before.at for before, after in itertools.pairwise(began[setup.WARM_UP :])]
    return {"seconds": statistics.median(steps), "memory": began[-1].peak_bytes - models}


def _report(measured: dict[str, list[dict[str, float]]], size_ratio: float) -> None:
    seconds = {side: statistics.median(each["seconds"] for each in found) for side, found in measured.items()}
    memory = {side: max(each.get("memory", 0) for each in found) for side, found in measured.items()}
    teacher, student = setup.shape(setup.TEACHER), setup.shape(setup.STUDENT)
    predicted = flops_per_token(student, teacher, setup.LENGTH) / flops_per_token(student, None, setup.LENGTH)
    figures = {
        "live_over_trainer": round(seconds["trainer"] / seconds["live"], 3),
        "cached_over_live": round(seconds["live"] / seconds["cached"], 3),
        "cached_predicted": round(predicted, 3),
        "memory_over_trainer": round(memory["live"] / memory["trainer"], 3),
        "fraction_of_limit": round(seconds["limit"] / seconds["live"], 3),
        "answers_over_predicted": round(size_ratio, 4),
        **{f"{side}_seconds": round(value, 4) for side, value in seconds.items()},
        **{f"{side}_memory_mib": round(value / 2**20) for side, value in memory.items() if side != "limit"},
    }
    if "trl" in seconds:
        figures["live_over_trl"] = round(seconds["trl"] / seconds["live"], 3)
    least = {"live_over_trainer": SPEED, "cached_over_live": round(1 + SHARE_OF_GAIN * (predicted - 1), 3)}
    holds = all(figures[name] >= limit for name, limit in least.items()) and figures["memory_over_trainer"] <= MEMORY
    targets = {**{name: [">=", limit] for name, limit in least.items()}, "memory_over_trainer": ["<=", MEMORY]}
    print(json.dumps({"benchmark": "distillation", "figures": figures, "targets": targets, "holds": holds}))


if __name__ == "__main__":
    main()
