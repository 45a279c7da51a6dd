"""The frame of an index: its columns, how rows become one, and what it may not hold."""

import pandas as pd

from mura_tune.errors import InputError

COLUMNS = ("path", "area", "patient", "study", "label", "split")
GET_MURA = "get MURA from https://stanfordmlgroup.github.io/competitions/mura/ or try 'make demo'"


class Rows:
    """Rows on their way into a frame, kept by column. A name that the row above has too is the
    same string: the views of a study follow one another, as do the studies of a patient."""

    def __init__(self) -> None:
        self._columns: dict[str, list[str | int]] = {column: [] for column in COLUMNS}

    def add(self, *row: str | int) -> None:
        """Append a row, a value for each of COLUMNS."""
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(column[-1] if column and column[-1] == value else value)

    def __len__(self) -> int:
        return len(self._columns["path"])

    def frame(self) -> pd.DataFrame:
        """All rows; afterwards there are none, so that they are not in memory twice."""
        return pd.DataFrame({name: pd.Series(self._columns.pop(name)) for name in COLUMNS})


def validated(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the frame with its columns in order and rows numbered, or raise InputError."""
    if missing := [column for column in COLUMNS if column not in frame.columns]:
        raise InputError(f"{name}: the index has no column {', '.join(missing)}")
    frame = frame[list(COLUMNS)].reset_index(drop=True)
    if frame.empty:
        raise InputError(f"{name}: no image is left in it; {GET_MURA}")
    for column in COLUMNS:
        if column == "label":
            good = pd.api.types.is_integer_dtype(frame[column]) and frame[column].isin([0, 1]).all()
        else:
            good = pd.api.types.is_string_dtype(frame[column]) and frame[column].notna().all()
        if not good:
            raise InputError(f"{name}: column {column} holds something else than its kind of value")
    if not frame["split"].isin(["train", "valid"]).all():
        raise InputError(f"{name}: column split holds more than 'train' and 'valid'")
    _refuse(
        frame["path"][frame["path"].duplicated()], name, "image", "listed twice", "keep one row"
    )
    studies = frame[["study", "label"]].drop_duplicates()["study"]
    way_out = "give each study one label, or name the studies apart in a study column"
    _refuse(studies[studies.duplicated()], name, "study", "both normal and abnormal", way_out)
    owners = frame[["study", "area", "patient"]].drop_duplicates()["study"]
    way_out = "name the studies apart"
    _refuse(owners[owners.duplicated()], name, "study", "of two patients or areas", way_out)
    patients = frame[["patient", "split"]].drop_duplicates()["patient"]
    way_out = "move all images of a patient to one split"
    _refuse(patients[patients.duplicated()], name, "patient", "in both train and valid", way_out)
    return frame


def _refuse(bad: "pd.Series[str]", name: str, noun: str, what: str, way_out: str) -> None:
    if bad.empty:
        return
    names = ", ".join(bad.iloc[:3]) + (", …" if len(bad) > 3 else "")
    raise InputError(f"{name}: {noun} {what}: {names} ({len(bad)} in all); {way_out}")
