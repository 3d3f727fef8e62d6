"""The kit names the rule that a wrong store breaks, and finds nothing wrong in a right one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

BROKEN = Path(__file__).with_name("broken_stores.py")
BROKEN_PLACES = Path(__file__).with_name("broken_places.py")
ROOT = BROKEN.parents[2]

RULES = {
    "TestLostUpdate": "test_no_concurrent_failure_is_lost",
    "TestValuesExpireInWholeSeconds": "test_a_value_ends_to_the_millisecond",
    "TestLeasesInWholeSeconds": "test_a_lease_is_held_to_the_millisecond",
    "TestPrefixLeak": "test_prefixes_separate_stores_and_may_be_nested",
    "TestExtendIgnoresThePrefix": "test_a_change_of_a_lock_leaves_those_beside_it_alone",
    "TestHolderIgnoresThePrefix": "test_the_holder_is_that_of_the_lock_and_of_none_beside_it",
    "TestForceReleaseIgnoresThePrefix": "test_a_change_of_a_lock_leaves_those_beside_it_alone",
    "TestSettingACircuitIgnoresThePrefix": (
        "test_a_change_of_a_circuit_leaves_those_beside_it_alone"
    ),
    "TestSuccessIgnoresThePrefix": "test_a_change_of_a_circuit_leaves_those_beside_it_alone",
    "TestDeleteTakesWhatIsBelow": "test_a_change_of_a_value_leaves_those_beside_it_alone",
    "TestDeleteManyTakesWhatStartsAlike": "test_a_change_of_a_value_leaves_those_beside_it_alone",
    "TestALockThatWasTakenBackIsTakenLate": (
        "test_a_claim_of_a_lock_that_lands_after_it_was_taken_back_is_refused"
    ),
    "TestARunThatWasTakenBackBeginsLate": (
        "test_a_claim_of_a_run_that_lands_after_it_was_taken_back_is_refused"
    ),
    "TestTheTransactionOfAZombieLands": (
        "test_the_transaction_of_a_run_that_was_taken_over_is_cancelled"
    ),
    "TestATransactionUndoesALaterSave": (
        "test_a_transaction_that_saves_a_job_lands_once_and_before_every_later_save"
    ),
    "TestPartsHappenOneByOne": "test_the_parts_of_a_transaction_happen_all_or_not_at_all",
    "TestTokenReuse": "test_fencing_tokens_only_grow",
    "TestSwallowedCancellation": "test_a_cancelled_change_of_a_value_is_whole_or_not_there",
    "TestCancellationBecomesAnError": "test_cancelling_a_method_of_circuits_raises_nothing_else",
    "TestHalfOpenLetsTwoThrough": "test_at_most_the_limit_of_probes_is_in_flight",
    "TestClearTouchesLocks": "test_clear_leaves_locks_and_circuits_alone",
    "TestOldValuesAreGiven": ("test_a_value_kept_beyond_its_time_is_returned_only_on_request"),
    "TestNoneIsMissing": "test_none_is_a_value_and_not_a_missing_key",
    "TestTupleIsAccepted": "test_a_value_that_is_not_json_shaped_is_refused_with_its_path",
    "TestValuesAreShared": (
        "test_changing_what_get_returned_or_set_took_does_not_change_the_cache"
    ),
    "TestReleaseFreesAnothersLock": (
        "test_releasing_a_lost_lock_returns_false_and_does_not_free_the_new_one"
    ),
    "TestRenewalIgnoresTheVersion": "test_a_renewal_needs_nonce_and_version",
    "TestAnOwnerShortensTheLease": (
        "test_extending_by_owner_never_shortens_a_lease_but_the_holder_may"
    ),
    "TestReservationIsIgnored": "test_a_reservation_is_respected_until_it_ends",
    "TestKeysArePagedShort": "test_keys_and_clear_cover_all_of_5000_items_and_nothing_else",
    "TestLateSuccessCloses": "test_a_late_success_does_not_close_an_open_circuit",
    "TestSettingWhatIsAbsentIsNotAtomic": "test_one_of_many_callers_sets_an_absent_key",
    "TestVersionsStandStill": "test_every_change_raises_the_version",
    "TestRenewalsTrustTheFirstClock": (
        "test_a_lock_that_is_renewed_stays_held_though_the_clock_was_set"
    ),
    "TestAHolderKnowsNoClock": ("test_a_holder_counts_on_its_lock_as_long_as_no_other_can_take_it"),
    "TestAClockThatWasSetIsTrusted": (
        "test_a_process_whose_clock_was_set_takes_over_only_what_it_has_watched"
    ),
    "TestWhatWasSeenOfACircuitIsIgnored": (
        "test_an_open_time_that_the_caller_has_waited_for_is_over"
    ),
    "TestAProbeIsNotRenewed": "test_a_probe_that_is_claimed_again_is_renewed",
    "TestALostProbeComesBack": "test_a_probe_that_has_lost_its_place_is_not_renewed",
    "TestAClockThatIsSetBackKeepsACircuitOpen": (
        "test_a_clock_that_is_set_far_back_keeps_no_circuit_open"
    ),
    "TestClosingTwiceFails": "test_a_closed_store_can_be_opened_again",
    "TestEveryEventLoopMayUseIt": ("test_another_event_loop_is_told_to_which_one_a_store_belongs"),
    "TestClosesItsNeighbours": ("test_closing_one_store_leaves_another_on_the_same_data_open"),
    "TestAZombieCompletesItsRun": "test_whoever_was_taken_over_changes_nothing_any_more",
    "TestAZombieAbandonsTheRunOfAnother": "test_whoever_was_taken_over_changes_nothing_any_more",
    "TestAnotherPayloadIsAccepted": "test_another_payload_is_refused_while_the_first_is_known",
    "TestACrashedRunIsRepeatedUnasked": (
        "test_a_dead_run_is_unknown_where_somebody_is_to_be_asked"
    ),
    "TestVerdictsAreForgottenInWholeSeconds": "test_a_verdict_is_kept_to_the_millisecond",
    "TestARunIsBegunTwice": "test_of_many_callers_at_once_one_runs",
    "TestASaveOutOfSequenceIsAccepted": "test_a_save_needs_nonce_and_version",
    "TestASaveDoesNotRenew": "test_a_save_renews_the_lease",
    "TestASaveForgetsHowFarTheJobHadCome": (
        "test_how_far_a_job_has_come_is_kept_until_another_save_tells"
    ),
    "TestAJobThatWasTakenBackIsTakenLate": (
        "test_a_claim_of_a_job_that_lands_after_it_was_taken_back_is_refused"
    ),
    "TestAZombieFinishesAJob": "test_whoever_lost_a_job_changes_nothing_any_more",
    "TestRestartKeepsTheState": "test_a_job_may_begin_anew",
    "TestANewerStateIsTaken": "test_a_state_of_a_newer_version_is_refused",
    "TestAnUnfinishedJobIsForgotten": "test_a_job_that_has_not_finished_is_never_forgotten",
    "TestARefusalCosts": "test_a_refusal_shows_when_a_call_may_go_and_costs_nothing",
    "TestAnIdleBucketOverflows": "test_an_idle_bucket_holds_no_more_than_its_burst",
    "TestWhoWaitsReservesNothing": "test_who_waits_has_a_place_after_all_before",
    "TestReservingIsNotAtomic": "test_of_many_callers_at_once_the_burst_is_admitted",
    "TestAPlaceIsReturnedInTheMiddle": "test_a_place_that_others_stand_behind_is_not_returned",
    "TestAPauseIsMadeShorter": "test_a_longer_pause_is_not_made_shorter",
    "TestAPauseIsNotShown": "test_a_pause_is_shown_to_those_who_look_and_to_those_who_ask",
    "TestATickIsStartedTwice": "test_of_many_processes_at_once_one_starts_a_tick",
    "TestATickIsStartedEarly": "test_no_tick_is_started_before_its_time",
    "TestAZombieEndsATick": "test_whoever_lost_a_tick_changes_nothing_any_more",
    "TestATickThatWasTakenBackBeginsLate": (
        "test_a_claim_of_a_tick_that_lands_after_it_was_taken_back_is_refused"
    ),
    "TestADeadTickIsForgotten": "test_a_run_that_died_goes_before_the_ticks_after_it",
    "TestATickIsStartedAgainForEver": (
        "test_a_tick_whose_run_died_is_started_again_as_often_as_is_allowed"
    ),
    "TestPausingIsIgnored": "test_nothing_starts_while_a_schedule_is_paused",
    "TestOneMoreThanTheLimit": "test_as_many_hold_a_semaphore_as_its_limit_says",
    "TestAWriterBesideReaders": "test_readers_share_and_a_writer_is_alone",
    "TestReadersStarveAWriter": "test_readers_that_come_later_wait_for_a_writer_that_waits",
    "TestATurnLastsForEver": "test_a_turn_that_is_not_renewed_ends",
    "TestAPermitThatWasTakenBackIsTakenLate": (
        "test_a_claim_of_a_permit_that_lands_after_it_was_taken_back_is_refused"
    ),
    "TestAZombieReleasesThePermitOfAnother": (
        "test_whoever_lost_a_permit_changes_nothing_any_more"
    ),
    "TestAHandoverThatIsRefusedFreesNothing": (
        "test_a_permit_that_nobody_may_get_by_a_handover_is_freed"
    ),
    "TestSemaphoresAndReadWriteLocksAreOne": (
        "test_a_semaphore_and_a_read_write_lock_of_one_key_are_apart"
    ),
    "TestWhoIsWatchedIsNotCompared": (
        "test_the_dead_that_were_watched_lose_their_permits_and_turns"
    ),
    "TestUseAfterCloseIsAnAccident": "test_a_closed_store_says_so_and_never_hangs",
    "TestOnlyItsOpenerMayCloseIt": "test_a_store_may_be_closed_by_another_task_than_opened_it",
    "TestLocksAreLackingThoughDeclared": (
        "test_a_store_has_the_methods_of_what_it_declares_and_of_nothing_else"
    ),
    "TestLocksAreThereThoughNotDeclared": (
        "test_a_store_has_the_methods_of_what_it_declares_and_of_nothing_else"
    ),
    "TestLocksAreDeclaredButNotTested": (
        "test_the_declared_capabilities_are_those_that_the_kit_tests"
    ),
}
RULES_OF_PLACES = {
    "TestAnIdOfAWriterIsLost": "test_an_entry_comes_back_as_it_was_written",
    "TestSwapIgnoresWhatWasSeen": "test_a_swap_writes_only_if_nobody_has_written_since",
    "TestAbsenceIsNotChecked": "test_a_swap_writes_only_if_nobody_has_written_since",
    "TestSwapIsNotAtomic": "test_one_of_many_swaps_writes",
    "TestNumbersAreCompared": "test_the_id_of_the_last_writer_is_compared_and_not_the_content",
    "TestAnOldEntryIsShownAsTheNewest": "test_a_refusal_shows_the_newest_entry",
    "TestLoadRemembers": "test_what_is_loaded_is_what_was_written_last",
    "TestPutKeepsThePurgeTime": "test_a_put_replaces_all_of_what_is_there",
    "TestPutDoesNotReplace": "test_a_put_replaces_all_of_what_is_there",
    "TestDoubtIsNeverTold": "test_a_swap_whose_answer_was_lost_says_that_it_is_in_doubt",
    "TestALostAnswerIsASuccess": "test_counters_are_exact_though_answers_are_lost",
    "TestPurgedTooEarly": "test_an_entry_stays_when_its_purge_time_is_over",
    "TestPurgeTimesAreIgnored": "test_keys_past_their_purge_time_are_not_listed",
    "TestPrefixesAreGlobs": "test_a_prefix_is_text_and_no_pattern",
    "TestKindsStartAlike": "test_kinds_are_apart",
    "TestOnlyThePageIsListed": "test_many_keys_are_listed_and_cleared",
    "TestTheClockStands": "test_the_clock_tells_the_time",
    "TestTellsWhoeverHasStopped": "test_whoever_watches_a_key_is_told_until_it_stops",
    "TestCancelledHalfWay": "test_a_cancelled_write_is_whole_or_not_there",
}
WELL = ("TestNothingWrong", "TestByWallClock", "TestWithALife", "TestLocksAlone")
PARTS = 12
"""In so many parts the whole kit runs on the broken stores, each for a core of its own."""


def judge(folder: Path, *tests: str) -> dict[str, tuple[int, set[str]]]:
    """Run tests on broken stores: how many each store passed, and the names of those it failed."""
    report = folder / "report.xml"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", *tests, f"--junitxml={report}"),
            *("-q", "-n0", "--tb=no", "--no-header", "-p", "no:cacheprovider"),
            # What hypothesis finds it then shrinks, which takes its time.
            *("-k", "not change_by_the_rules and not come_back_equal"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode in (0, 1), finished.stdout + finished.stderr
    found: dict[str, tuple[int, set[str]]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        name = case.attrib["classname"].rpartition(".")[2]
        kept, broken = found.get(name, (0, set()))
        if case.find("failure") is None and case.find("error") is None:
            kept += case.find("skipped") is None
        else:
            broken.add(case.attrib["name"].partition("[")[0])
        found[name] = kept, broken
    return found


@pytest.mark.slow
def test_the_rule_that_a_store_breaks_is_named(tmp_path: Path) -> None:
    found = judge(tmp_path, *(f"{BROKEN}::{name}::{rule}" for name, rule in RULES.items()))
    assert {name: broken for name, (_, broken) in found.items()} == {
        name: {rule} for name, rule in RULES.items()
    }


@pytest.mark.slow
def test_the_rule_that_a_place_breaks_is_named(tmp_path: Path) -> None:
    rules = RULES_OF_PLACES.items()
    found = judge(tmp_path, *(f"{BROKEN_PLACES}::{name}::{rule}" for name, rule in rules))
    assert {name: broken for name, (_, broken) in found.items()} == {
        name: {rule} for name, rule in rules
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", WELL)
def test_a_store_with_nothing_wrong_breaks_no_rule(name: str, tmp_path: Path) -> None:
    kept, broken = judge(tmp_path, f"{BROKEN}::{name}")[name]
    assert broken == set()
    assert kept > 50


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_store_that_is_wrong_in_one_way_keeps_most_rules(tmp_path: Path, part: int) -> None:
    names = [*RULES, *WELL][part::PARTS]
    found = judge(tmp_path, *(f"{BROKEN}::{name}" for name in names))
    assert set(found) == set(names)
    assert not {name for name, (kept, broken) in found.items() if kept <= len(broken)}


def test_every_broken_store_is_judged() -> None:
    classes = re.findall(r"^class (Test\w+)", BROKEN.read_text(), re.MULTILINE)
    assert set(classes) == {*RULES, *WELL}


WITHOUT_HYPOTHESIS = """
import importlib.util, sys
import pytest
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "hypothesis" else find(name)
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_without_hypothesis_the_kit_runs_on_a_fixed_corpus() -> None:
    finished = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_HYPOTHESIS, f"{BROKEN}::TestNothingWrong"),
            *("-q", "-n0", "--no-header", "-p", "no:cacheprovider"),
            *("-k", "change_by_the_rules or come_back_equal"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert int(finished.stdout.partition(" passed")[0].split()[-1]) > 20
