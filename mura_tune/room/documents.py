"""A study of a sitting as JSON for the page, and a sitting as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mura_tune.reading.answers import Answer, is_unfamiliar
from mura_tune.reading.readers import Predictor
from mura_tune.room.releases import RoomAnswer, RoomReleases
from mura_tune.room.requests import RefusedRequest
from mura_tune.room.sittings import ReadStudy
from mura_tune.text import to_cell

ABNORMAL, NORMAL, DOUBT, UNLIKE = "abnormal", "normal", "doubt", "unlike"
UNROUTED, NO_RELEASE, UNREADABLE = "unrouted", "no release", "unreadable"
_ABSTAINS = "The release abstains."
_COLUMNS = (
    *("study", "files", "read_at", "area", "area_source", "router_confidence", "views"),
    *("probability", "call", "why", "distance", "operating_point", "threshold"),
    *("release", "digest"),
)


def study_to_json(study: ReadStudy, releases: RoomReleases) -> dict[str, Any]:
    """A study as the page shows it."""
    call, why = describe_call(study, releases)
    reply = study.answer
    answer, route = (reply.answer, reply.route) if reply else (None, None)
    familiarity = reply.familiarity if reply else None
    return {
        "id": study.id,
        "name": study.name,
        "area": reply.name if reply and reply.name else route.area if route else None,
        "area_source": reply.source if reply else None,
        "route": route
        and {
            "area": route.area,
            "confidence": route.confidence,
            "least": route.least,
            "abstained": route.abstain,
        },
        "recognised_area": answer and answer.recognised_area,
        "note": reply.problem if reply and answer else "",
        "probability": answer and answer.probability,
        "call": call,
        "why": why,
        "operating_point": answer
        and {"name": answer.operating_point, "threshold": answer.threshold},
        "band": _band(reply, releases),
        "familiarity": familiarity.to_json() if familiarity else None,
        "views": [
            {
                "id": view.id,
                "name": view.name,
                "width": view.width,
                "height": view.height,
                "probability": answer and answer.views[number].probability,
                "distance": answer and answer.views[number].distance,
                "window": view.window and asdict(view.window),
            }
            for number, view in enumerate(study.views)
        ],
        "errors": [asdict(error) for error in study.errors],
        "held": study.pictures is not None,
        "read_at": study.read_at.strftime("%H:%M:%S"),
        "seconds": round(study.seconds, 3),
    }


def describe_call(study: ReadStudy, releases: RoomReleases) -> tuple[str, str]:
    """What the answer calls a study, in one of the words above, and why, in a sentence."""
    reply = study.answer
    if reply is None:
        files = len(study.views) + len(study.errors)
        return UNREADABLE, (
            f"{len(study.errors)} of its {files} files cannot be read, and no view is left out of "
            "an answer: drop the study again without what is no view of it."
        )
    if is_unfamiliar(reply.familiarity):
        rest = reply.problem if reply.answer is None else _ABSTAINS
        return UNLIKE, f"It is {reply.familiarity}. {rest}"
    if reply.answer is None or reply.name is None:
        missing = reply.route is not None and not reply.route.abstain
        return (NO_RELEASE if missing else UNROUTED), reply.problem
    return _describe_answer(reply.answer, releases.reader(reply.name))


def _describe_answer(answer: Answer, reader: Predictor) -> tuple[str, str]:
    point = f"the operating point {answer.operating_point}, {answer.threshold:.3f}"
    if answer.abstain:
        band = reader.decision.band
        return DOUBT, (
            f"Its probability lies between {band.low:.3f} and {band.high:.3f}, where too many "
            f"studies were answered wrong. {_ABSTAINS}"
        )
    if answer.abnormal:
        return ABNORMAL, f"Its probability reaches {point}."
    return NORMAL, f"Its probability is below {point}."


def _band(reply: RoomAnswer | None, releases: RoomReleases) -> dict[str, float] | None:
    if reply is None or reply.name is None:
        return None
    band = releases.reader(reply.name).decision.band
    return {"low": band.low, "high": band.high} if band.low < band.high else None


def sitting_to_csv(studies: Iterable[ReadStudy], releases: RoomReleases, point: str | None) -> str:
    """The studies of a sitting, a row each; no cell is a formula.

    Args:
        point: the operating point that calls them, by its name; None for each release's own.

    Raises:
        RefusedRequest: an operating point that a release does not have.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(_COLUMNS)
    for study in studies:
        row = _row(study, releases, point)
        table.writerow([to_cell(str(row.get(column, ""))) for column in _COLUMNS])
    return out.getvalue()


def _row(study: ReadStudy, releases: RoomReleases, point: str | None) -> dict[str, object]:
    document = study_to_json(study, releases)
    route = document["route"] or {}
    files = [*(view.name for view in study.views), *(error.file for error in study.errors)]
    row: dict[str, object] = {
        "study": study.name,
        "files": "; ".join(files),
        "read_at": study.read_at.isoformat(timespec="seconds"),
        "area": document["area"] or "",
        "area_source": document["area_source"] or "",
        "router_confidence": f"{route['confidence']:.6f}" if route else "",
        "views": len(study.views),
        "call": document["call"],
        "why": document["why"],
    }
    reply = study.answer
    if reply is not None and reply.familiarity is not None:
        row["distance"] = f"{reply.familiarity.distance:.6f}"
    if reply is None or reply.answer is None or reply.name is None:
        return row
    reader, answer = releases.reader(reply.name), reply.answer
    about = releases.about(reply.name)
    row |= {
        "probability": f"{answer.probability:.6f}",
        "operating_point": answer.operating_point,
        "threshold": f"{answer.threshold:.6f}",
        "release": about["name"],
        "digest": about["digest"] or "",
    }
    if point and point != answer.operating_point:
        row |= _at_point(answer, reader, point, str(row["call"]))
    return row


def _at_point(answer: Answer, reader: Predictor, point: str, call: str) -> dict[str, object]:
    """The cells of an answer at another operating point than the release's own."""
    points = reader.decision.points
    if point not in points:
        raise RefusedRequest(
            400, f"a release has no such operating point; it has {', '.join(points)}"
        )
    threshold = points[point]
    cells: dict[str, object] = {"operating_point": point, "threshold": f"{threshold:.6f}"}
    if call in (ABNORMAL, NORMAL, DOUBT):  # the band of doubt is around the release's own point
        reached = answer.probability >= threshold
        cells["call"] = ABNORMAL if reached else NORMAL
        word = "reaches" if reached else "is below"
        cells["why"] = f"Its probability {word} the operating point {point}, {threshold:.3f}."
    return cells
