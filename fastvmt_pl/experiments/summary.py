"""The summary of a sweep: a row for each setting."""

from collections.abc import Sequence
from typing import Any

from fastvmt_pl.evaluation.bootstrap import interval_of_mean
from fastvmt_pl.toy.toy_tracker import SHARES

Row = dict[str, Any]


def summarise(rows: Sequence[Row], reference: str) -> str:
    """Return a Markdown table: each setting's means with their 95 % bootstrap intervals, and paired differences.

    Args:
        rows: A row for each job of each setting.
        reference: The setting that the others are compared with, job by job, by the path error where it is known and by
            the local motion fidelity elsewhere.
    """
    known = any(row.get("path_error") is not None for row in rows)
    judged = "path_error" if known else "local_motion_fidelity"
    scores = (*SHARES, "image_psnr", "camera_error", "followed", "motion_fidelity", "relative_flow_error")
    shown = [judged, *(name for name in scores if name in (rows or [{}])[0])]
    costs = ("gradients_computed", "seconds", "gradient_peak_mib")
    head = ["setting", *shown, *costs, f"{judged} less that of {reference}"]
    lines = [head, ["---"] * len(head)]
    by_setting: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_setting.setdefault(row["setting"], {})[row["job"]] = row
    for name, found in by_setting.items():
        cells = [_mean([row[score] for row in found.values()], score in SHARES) for score in shown]
        cells += [_plain([row[cost] for row in found.values()]) for cost in costs]
        others = by_setting.get(reference, {})
        pairs = [(found[job][judged], others[job][judged]) for job in found if job in others]
        less = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
        lines.append([name, *cells, "" if name == reference else _mean(less, False)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(values: Sequence[float | int | None], percent: bool) -> str:
    known = [value for value in values if value is not None]
    if len(known) < 2:  # too few for an interval
        return (f"{known[0]:.1%}" if percent else f"{known[0]:.3f}") if known else ""
    form = "{:.1%} [{:.1%}, {:.1%}]" if percent else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(*interval_of_mean(known))


def _plain(values: Sequence[float | int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1f}" if known else ""
