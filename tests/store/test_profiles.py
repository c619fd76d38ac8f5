"""Profiles beside their measurements, on SQLite and PostgreSQL; and databases from before there were any."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import BugError
from edgebench.records import LayerTime, Profile, replace
from edgebench.store import Store, base
from edgebench.store.opening import place
from tests.store.records import RUN, measurement, run, take_gates_away

TEXTS = st.text(max_size=12) | st.sampled_from(["\0", "\ud800", "é'\"\\", "x" * 300])
TIMES = st.integers(0, 2**62 // 8)
LAYERS = st.builds(
    LayerTime,
    name=TEXTS,
    kind=TEXTS,
    mean_ns=TIMES,
    unit=st.none() | TEXTS,
    nodes=st.lists(TEXTS, max_size=3).map(tuple),
    moves=st.booleans(),
    inputs=st.lists(TEXTS, max_size=2).map(tuple),
    outputs=st.lists(TEXTS, max_size=2).map(tuple),
    parts=st.lists(TEXTS, max_size=2).map(tuple),
    then=st.lists(TEXTS, max_size=2).map(tuple),
)
PROFILES = st.builds(
    Profile,
    runtime_version=TEXTS,
    method=TEXTS,
    repeats=st.integers(0, 1000),
    layers=st.lists(LAYERS, max_size=4).map(tuple),
    total_ns=st.none() | TIMES,
    estimated=st.booleans(),
    effective=st.dictionaries(TEXTS, TEXTS, max_size=2),
    onnx_digest=st.none() | TEXTS,
    folded=st.lists(TEXTS, max_size=2).map(tuple),
    unclaimed=st.lists(TEXTS, max_size=2).map(tuple),
)


def profile(**changes: object) -> Profile:
    layers = (LayerTime(name="conv", kind="Conv", mean_ns=700, unit="CPU", nodes=("a", "b")),)
    made = Profile(runtime_version="1.2", method="by hand", repeats=3, layers=layers, total_ns=1000)
    return replace(made, **changes)


def begun(store: Store, *ids: str) -> None:
    store.add_run(run())
    for each in ids:
        store.begin_measurement(measurement(each, launches=()))


def test_a_profile_comes_back_beside_its_measurement(store: Store) -> None:
    begun(store, "m1", "m2")
    store.add_profile("m1", profile())
    assert store.profiles(RUN) == {"m1": profile()}
    assert store.measurement("m1").launches == ()


def test_the_last_profile_counts(store: Store) -> None:
    begun(store, "m1")
    store.add_profile("m1", profile(total_ns=5000))
    store.add_profile("m1", profile(total_ns=4000))
    assert store.profiles(RUN)["m1"].total_ns == 4000


def test_a_profile_may_be_added_when_the_measurement_is_finished(store: Store) -> None:
    begun(store, "m1")
    store.finish_measurement("m1", "ok")
    store.add_profile("m1", profile())
    assert store.profiles(RUN) == {"m1": profile()}


def test_profiles_belong_to_their_run(store: Store) -> None:
    begun(store, "m1")
    store.add_run(run("another-run"))
    store.add_profile("m1", profile())
    assert store.profiles("another-run") == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(made=PROFILES)
def test_any_profile_comes_back_equal(store: Store, made: Profile) -> None:
    if not store.runs(1):
        begun(store, "m1")
    store.add_profile("m1", made)
    assert store.profiles(RUN) == {"m1": made}


def test_what_no_database_holds_is_a_bug(store: Store) -> None:
    begun(store, "m1")
    with pytest.raises(BugError, match="of a profile is"):
        store.add_profile("m1", profile(total_ns=2**63))
    with pytest.raises(BugError, match="no measurement m9"):
        store.add_profile("m9", profile())
    assert store.profiles(RUN) == {}


def test_a_database_from_before_profiles_gets_their_table(url: str) -> None:
    with Store(url) as store:
        begun(store, "m1")
    engine = sa.create_engine(place(url).url)
    with engine.begin() as connection:
        take_gates_away(connection)
        for name in ("profile", "health_check"):
            connection.exec_driver_sql(f"DROP TABLE {name}")
        connection.exec_driver_sql(f"UPDATE {base.VERSION_TABLE} SET version_num = '0001'")
    engine.dispose()
    with Store(url) as store:
        assert store.profiles(RUN) == {}
        store.add_profile("m1", profile())
        assert store.profiles(RUN) == {"m1": profile()}
