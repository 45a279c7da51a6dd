"""What a sitting holds, for how long, and who sees it."""

import numpy as np

from mura_tune.imaging.images import Picture
from mura_tune.room import sittings
from mura_tune.room.sittings import ReadStudy, ReadView, Sittings, StudyPictures, new_id

SIDE = 100  # pictures of 10,000 bytes


def study(name: str) -> ReadStudy:
    """A study of one view, which takes twice its pixels."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pictures = StudyPictures((Picture(pixels),), {SIDE: pixels[None]})
    views = (ReadView(new_id(), name, SIDE, SIDE, None),)
    return ReadStudy(new_id(), name, frozenset(), views, (), None, pictures, 0.0)


def test_pictures_that_were_looked_at_longest_ago_go_and_the_list_stays() -> None:
    held = Sittings(most_bytes=3 * 2 * SIDE**2)
    mine, other = held.begin(), held.begin()
    first, second, third, fourth = map(study, "1234")
    for sitting, one in ((mine, first), (other, second), (mine, third)):
        held.add(sitting, one)
    assert held.look_at(first)
    held.add(mine, fourth)
    assert [one.name for one in held.studies(mine)] == ["1", "3", "4"]
    assert [one.pictures is not None for one in (first, second, third, fourth)] == [
        True,
        False,
        True,
        True,
    ]
    assert held.look_at(second) is None


def test_the_newest_study_is_held_whatever_its_size() -> None:
    held = Sittings(most_bytes=1)
    mine = held.begin()
    for name in "12":
        held.add(mine, study(name))
    assert [one.pictures is not None for one in held.studies(mine)] == [False, True]


def test_a_view_is_found_in_its_own_sitting_only() -> None:
    held = Sittings()
    mine, other, one = held.begin(), held.begin(), study("1")
    held.add(mine, one)
    assert held.find_view(mine, one.views[0].id) == (one, 0)
    assert held.find_view(other, one.views[0].id) is None
    assert not held.remove(other, one.id)
    assert held.remove(mine, one.id)
    assert one.pictures is None
    assert held.find_view(mine, one.views[0].id) is None


def test_sittings_end_when_they_are_idle_or_too_many() -> None:
    now = [0.0]
    held = Sittings(clock=lambda: now[0])
    first, second = held.begin(), held.begin()
    one = study("1")
    held.add(first, one)
    now[0] = sittings.IDLE_SECONDS
    assert held.find(second.id) is second
    now[0] += 1
    assert held.find(first.id) is None
    assert one.pictures is None
    assert held.find(second.id) is second
    for _ in range(sittings.MOST_SITTINGS):
        held.begin()
    assert held.find(second.id) is None
    assert len({new_id() for _ in range(100)}) == 100


def test_a_list_of_a_thousand_studies_loses_its_oldest() -> None:
    held = Sittings(most_bytes=1)
    mine = held.begin()
    for number in range(sittings.MOST_STUDIES + 2):
        held.add(mine, study(str(number)))
    assert len(held.studies(mine)) == sittings.MOST_STUDIES
    assert held.studies(mine)[0].name == "2"
