"""The checker finds what it must, and nothing else: each rule on hand-written histories, good and bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from nightcrew.engine import Engine
from nightcrew.errors import ConfigurationError, EngineError, StorageFull
from nightcrew.job import AttemptRecord, ErrorInfo, JobRecord, JobState, Outcome
from nightcrew.testing.checker import Dump, Standing, Verdict, check, check_directory
from nightcrew.testing.crash import METHODS, CrashPoint
from nightcrew.testing.history import Fields, HistoryRecorder, Kind, Record, digest, read_history
from nightcrew.testing.nemesis import in_flight

JOB = "job-1"


class Play:
    """A run written by hand: every call is one operation, a second after the one before."""

    def __init__(self) -> None:
        self.now = 100.0
        self.op = 0
        self.seq = 0
        self.processes: dict[str, list[Record]] = {}
        self.jobs: dict[str, JobRecord] = {}
        self.attempts: dict[str, tuple[AttemptRecord, ...]] = {}

    def write(self, f: str, kind: Kind, fields: Fields, inc: str = "p1") -> None:
        self.seq += 1
        record = Record(
            inc=inc,
            seq=self.seq,
            op=self.op,
            type=kind,
            f=f,
            mono=self.now,
            wall=self.now,
            **msgspec.structs.asdict(fields),
        )
        self.processes.setdefault(inc, []).append(record)

    def did(self, f: str, asked: Fields, said: Fields | None, kind: Kind = "ok", inc: str = "p1") -> None:
        """One operation of half a second; without an answer its outcome is unknown."""
        self.op += 1
        self.write(f, "invoke", asked, inc)
        self.now += 0.5
        if said is not None:
            self.write(f, kind, said, inc)
        self.now += 0.5

    def enqueue(self, job: str = JOB, kind: Kind | None = "ok", key: str | None = None) -> None:
        said = None if kind is None else Fields(job=job, value="created")
        self.did("enqueue", Fields(job=job, key=key, max_attempts=5), said, kind or "ok")

    def claim(
        self, fence: int, worker: str = "w1", job: str = JOB, attempts: int = 0, losses: int = 0
    ) -> None:
        said = Fields(job=job, fence=fence, worker=worker, attempts=attempts, losses=losses, max_attempts=5)
        self.did("claim", Fields(worker=worker), said, inc=worker)

    def rescue(self, fence: int, old: int, worker: str = "w1", by: str = "w2", dead: bool = False) -> None:
        said = Fields(job=JOB, fence=fence, worker=by, old=old, names=(worker,), max_attempts=5)
        self.did("sweep", Fields(worker=by, names=(worker,) if dead else ()), said, inc=by)

    def body(self, fence: int, ends: bool = True) -> None:
        self.op += 1
        self.write("start", "ok", Fields(job=JOB, fence=fence), "body")
        if ends:
            self.write("end", "ok", Fields(job=JOB, fence=fence), "body")

    def finish(
        self,
        fence: int,
        outcome: Outcome = Outcome.SUCCEEDED,
        *,
        state: JobState = JobState.SUCCEEDED,
        attempts: int = 1,
        losses: int = 0,
        answer: str | None = "applied",
        result: bytes | None = b"1",
        worker: str = "w1",
    ) -> None:
        asked = Fields(
            job=JOB,
            fence=fence,
            state=state,
            outcome=outcome,
            attempts=attempts,
            losses=losses,
            digest=digest(result) if outcome is Outcome.SUCCEEDED else None,
        )
        said = None if answer is None else Fields(job=JOB, fence=fence, value=answer)
        self.did("finish", asked, said, inc=worker)

    def again(
        self, fence: int, attempts: int = 1, answer: str | None = "applied", worker: str = "w1"
    ) -> None:
        """An error, after which the job is ready again."""
        self.finish(
            fence, Outcome.ERROR, state=JobState.READY, attempts=attempts, answer=answer, worker=worker
        )

    def retry(self, answer: str = "done") -> None:
        self.did("change", Fields(job=JOB, value="retry"), Fields(job=JOB, value=answer))

    def renew(self, worker: str = "w1", lease: float = 15.0, boot: str = "b") -> None:
        asked = Fields(worker=worker, lease=lease, host="h", boot=boot)
        self.did("renew", asked, Fields(worker=worker, value="held"), inc=worker)

    def holds(
        self,
        job: str = JOB,
        state: JobState = JobState.SUCCEEDED,
        *,
        fence: int = 1,
        attempts: int = 1,
        losses: int = 0,
        result: bytes | None = b"1",
    ) -> None:
        """What the store has of a job in the end."""
        self.jobs[job] = JobRecord(
            id=job,
            task="work",
            queue="default",
            state=state,
            priority=0,
            args=b"{}",
            created_at=0.0,
            due_at=0.0,
            attempts=attempts,
            max_attempts=5,
            fence=fence,
            losses=losses,
            result=result if state is JobState.SUCCEEDED else None,
        )

    def verdict(self, **at_least: int) -> Verdict:
        return check(self.processes.values(), Dump(self.jobs, self.attempts), at_least=at_least)


def plain() -> Play:
    """One job that simply succeeds."""
    play = Play()
    play.enqueue()
    play.claim(1)
    play.body(1)
    play.finish(1)
    play.holds()
    return play


def rescued() -> Play:
    """A worker dies with the job; a sweeper takes it over and gives it back; another one ends it."""
    play = Play()
    play.enqueue()
    play.renew("w1")
    play.claim(1)
    play.body(1, ends=False)
    play.rescue(2, old=1, dead=True)
    play.finish(2, Outcome.LOST, state=JobState.READY, attempts=0, losses=1, worker="w2")
    play.claim(3, "w2", losses=1)
    play.body(3)
    play.finish(3, losses=1, worker="w2")
    play.holds(fence=3, losses=1)
    return play


# Lawful runs.


def test_a_plain_success_is_valid() -> None:
    verdict = plain().verdict()
    assert verdict.ok, verdict
    assert verdict.counts["jobs"] == verdict.counts["granted"] == verdict.counts["bodies"] == 1


def test_a_rescued_job_is_valid() -> None:
    verdict = rescued().verdict(rescued=1)
    assert verdict.ok, verdict


def test_retries_until_dead_and_a_retry_by_hand_are_valid() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.again(1)
    play.claim(2, attempts=1)
    play.finish(2, Outcome.ERROR, state=JobState.FAILED, attempts=2)
    play.retry()
    play.claim(3)
    play.body(3)
    play.finish(3)
    play.holds(fence=3, attempts=1)
    verdict = play.verdict()
    assert verdict.ok, verdict


def test_a_settlement_may_be_repeated_after_a_lost_answer() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.again(1, answer=None)
    play.claim(2, "w2", attempts=1)
    play.again(1)
    play.body(2)
    play.finish(2, attempts=2, worker="w2")
    play.holds(fence=2, attempts=2)
    verdict = play.verdict()
    assert verdict.ok, verdict


def test_a_lost_answer_to_an_enqueue_is_recovered() -> None:
    play = plain()
    play.processes["p1"] = play.processes["p1"][:1]
    verdict = play.verdict(recovered=1)
    assert verdict.ok, verdict


def test_a_refused_late_writer_is_valid() -> None:
    play = rescued()
    play.finish(1, answer="lease_lost")
    verdict = play.verdict(refused=1)
    assert verdict.ok, verdict


# C1 lost


def test_c1_an_acknowledged_job_that_is_not_there() -> None:
    play = plain()
    del play.jobs[JOB]
    assert "C1" in play.verdict().rules


def test_c1_a_job_that_never_ended() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.holds(state=JobState.RUNNING, attempts=0)
    assert play.verdict().rules == {"C1"}


def test_c1_an_acknowledged_end_that_was_lost() -> None:
    play = plain()
    play.holds(state=JobState.CANCELLED)
    assert play.verdict().rules == {"C1"}


# C3 unexpected


def test_c3_a_job_that_nobody_made() -> None:
    play = plain()
    play.holds("ghost")
    verdict = play.verdict()
    assert verdict.rules == {"C3"}
    assert verdict.violations[0].job == "ghost"


def test_c3_a_job_whose_enqueue_was_refused() -> None:
    play = plain()
    play.enqueue("job-2", kind="fail")
    play.holds("job-2", JobState.CANCELLED, attempts=0)
    assert play.verdict().rules == {"C3"}


def test_c3_one_request_that_made_two_jobs() -> None:
    play = plain()
    play.enqueue("job-2", key="order 7", kind=None)
    play.enqueue("job-3", key="order 7")
    play.holds("job-2", JobState.CANCELLED, attempts=0)
    assert play.verdict().rules == {"C1"}, "job-3 was acknowledged and is missing"
    play.holds("job-3", JobState.CANCELLED, attempts=0)
    verdict = play.verdict()
    assert verdict.rules == {"C3"}
    assert "order 7" in verdict.violations[0].text


def test_c3_one_request_repeated_with_one_id_is_one_job() -> None:
    play = plain()
    play.enqueue("job-2", key="order 7", kind=None)
    play.enqueue("job-2", key="order 7")
    play.holds("job-2", JobState.CANCELLED, attempts=0)
    assert play.verdict().ok


def test_c3_a_result_that_nobody_wrote() -> None:
    play = plain()
    play.holds(result=b"2")
    assert play.verdict().rules == {"C3"}


def test_c3_a_body_under_a_fence_never_granted() -> None:
    play = plain()
    play.body(9)
    assert play.verdict().rules == {"C3"}


# C4 double end


def test_c4_two_ends_in_one_life() -> None:
    play = rescued()
    play.claim(4, "w3", attempts=1, losses=1)
    play.body(4)
    play.finish(4, attempts=2, losses=1, worker="w3")
    play.holds(fence=4, attempts=2, losses=1)
    assert "C4" in play.verdict().rules


def test_c4_granted_again_after_an_accepted_end() -> None:
    play = plain()
    play.claim(2, attempts=1)
    assert "C4" in play.verdict().rules


def test_c4_a_refused_retry_by_hand_begins_no_new_life() -> None:
    play = plain()
    play.retry("unchanged")
    play.claim(2, attempts=1)
    assert "C4" in play.verdict().rules


# C5 stale write


def test_c5_a_late_finish_that_was_accepted() -> None:
    play = rescued()
    play.body(1)
    play.finish(1)
    assert "C5" in play.verdict().rules


def test_c5_a_finish_that_was_asked_before_the_rescue_and_accepted_after_it() -> None:
    """Their order in time is unknown, but what was settled would not have been taken over."""
    play = Play()
    play.enqueue()
    play.renew("w1")
    play.claim(1)
    play.body(1)
    play.op += 1
    slow = play.op
    fields = Fields(job=JOB, fence=1, state="succeeded", outcome="succeeded", attempts=1, digest=digest(b"1"))
    play.write("finish", "invoke", fields, "w1")
    play.rescue(2, old=1, dead=True)
    play.finish(2, Outcome.LOST, state=JobState.READY, attempts=0, losses=1, worker="w2")
    play.op = slow
    play.write("finish", "ok", Fields(job=JOB, fence=1, value="applied"), "w1")
    play.holds(attempts=1)
    assert "C5" in play.verdict().rules


def test_c5_a_late_report_that_was_accepted() -> None:
    play = rescued()
    play.did("report", Fields(job=JOB, fence=1), Fields(job=JOB, fence=1, value="applied"))
    assert play.verdict().rules == {"C5"}


def test_c5_a_rescue_that_did_not_raise_the_fence() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.rescue(1, old=1, dead=True)
    play.body(1)
    play.finish(1, worker="w2")
    play.holds()
    assert "C5" in play.verdict().rules


def test_c5_a_fence_that_went_down() -> None:
    play = Play()
    play.enqueue()
    play.claim(5)
    play.again(5)
    play.claim(4, attempts=1)
    play.body(4)
    play.finish(4, attempts=2)
    play.holds(fence=4, attempts=2)
    assert "C5" in play.verdict().rules


def test_c5_a_holder_that_was_told_it_lost() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.body(1)
    play.did("report", Fields(job=JOB, fence=1), Fields(job=JOB, fence=1, value="lease_lost"))
    play.finish(1)
    play.holds()
    assert play.verdict().rules == {"C5"}


def test_c5_a_write_under_a_fence_never_granted() -> None:
    play = plain()
    play.did("report", Fields(job=JOB, fence=7), Fields(job=JOB, fence=7, value="applied"))
    assert play.verdict().rules == {"C5"}


def test_c5_a_sweeper_that_died_with_its_answer_explains_a_lost_lease() -> None:
    play = plain()
    play.did("sweep", Fields(worker="w3"), None, inc="w3")
    play.did("report", Fields(job=JOB, fence=1), Fields(job=JOB, fence=1, value="lease_lost"))
    play.holds(fence=2)
    assert play.verdict().ok


# C6 overlap


def test_c6_claimed_while_another_holds_it() -> None:
    play = Play()
    play.enqueue()
    play.claim(1, "w1")
    play.claim(2, "w2")
    play.body(2)
    play.finish(2, worker="w2")
    play.holds(fence=2)
    assert play.verdict().rules == {"C6"}


@pytest.mark.parametrize(("pause", "broken"), [(1.0, True), (20.0, False)])
def test_c6_a_rescue_inside_the_lease(pause: float, broken: bool) -> None:
    play = Play()
    play.enqueue()
    play.renew("w1", lease=15.0)
    play.claim(1)
    play.now += pause
    play.rescue(2, old=1)
    play.body(2)
    play.finish(2, worker="w2")
    play.holds(fence=2)
    verdict = play.verdict()
    assert verdict.rules == ({"C6"} if broken else frozenset()), verdict


def test_c6_a_rescue_after_a_reboot_needs_no_wait() -> None:
    play = Play()
    play.enqueue()
    play.renew("w1", boot="before")
    play.claim(1)
    play.renew("w2", boot="after")
    play.rescue(2, old=1)
    play.body(2)
    play.finish(2, worker="w2")
    play.holds(fence=2)
    assert play.verdict().ok


def test_c6_a_worker_called_dead_that_goes_on() -> None:
    play = rescued()
    play.renew("w1")
    assert play.verdict().rules == {"C6"}


# C7 phantom success


def test_c7_a_success_whose_body_never_ended() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.body(1, ends=False)
    play.finish(1)
    play.holds()
    assert play.verdict().rules == {"C7"}


def test_c7_is_not_asked_without_a_ledger() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.finish(1)
    play.holds()
    assert play.verdict().ok


# C8 attempts


def test_c8_a_charge_for_a_lost_grant() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.rescue(2, old=1, dead=True)
    play.finish(2, Outcome.LOST, state=JobState.READY, attempts=1, losses=1, worker="w2")
    play.claim(3, "w2", attempts=1, losses=1)
    play.body(3)
    play.finish(3, attempts=2, losses=1, worker="w2")
    play.holds(fence=3, attempts=2, losses=1)
    assert play.verdict().rules == {"C8"}


def test_c8_an_attempt_that_was_forgotten() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.again(1)
    play.claim(2, attempts=0)
    play.body(2)
    play.finish(2, attempts=1)
    play.holds(fence=2, attempts=1)
    assert play.verdict().rules == {"C8"}


def test_c8_more_attempts_than_allowed() -> None:
    play = Play()
    play.enqueue()
    for number in range(1, 7):
        play.claim(number, attempts=number - 1)
        play.again(number, attempts=number)
    play.claim(7, attempts=6)
    play.body(7)
    play.finish(7, attempts=7)
    play.holds(fence=7, attempts=7)
    assert play.verdict().rules == {"C8"}


def test_c8_an_error_that_was_not_kept() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.finish(1, Outcome.ERROR, state=JobState.FAILED)
    play.holds(state=JobState.FAILED)
    play.attempts[JOB] = ()
    assert play.verdict().rules == {"C8"}
    kept = AttemptRecord(attempt=1, fence=1, outcome=Outcome.ERROR, error=ErrorInfo("E", "m"))
    play.attempts[JOB] = (kept,)
    assert play.verdict().ok
    play.attempts[JOB] = (kept, kept)
    assert play.verdict().rules == {"C8"}


# Runs that show nothing.


def test_a_run_with_too_few_faults_is_vacuous() -> None:
    verdict = plain().verdict(kills=1)
    assert verdict.standing is Standing.VACUOUS
    assert "0 kills" in str(verdict)


def test_a_run_without_jobs_is_vacuous() -> None:
    assert Play().verdict().standing is Standing.VACUOUS


def test_a_dump_without_the_attempts_of_failed_jobs_is_unknown() -> None:
    play = Play()
    play.enqueue()
    play.claim(1)
    play.finish(1, Outcome.ERROR, state=JobState.FAILED)
    play.holds(state=JobState.FAILED)
    assert play.verdict().standing is Standing.UNKNOWN


def test_a_kill_that_hit_no_work_is_counted_apart() -> None:
    play = plain()
    play.op += 1
    play.write("kill", "ok", Fields(value="in flight"))
    play.write("kill", "ok", Fields(value="idle"))
    counts = play.verdict().counts
    assert (counts["kills"], counts["idle_kills"]) == (1, 1)


def test_the_proof_is_a_few_records() -> None:
    verdict = rescued_and_stale().verdict()
    stale = next(violation for violation in verdict.violations if violation.rule == "C5")
    assert [record.f for record in stale.proof] == ["sweep", "sweep", "finish", "finish"]
    assert "fence=1" in str(verdict)


def rescued_and_stale() -> Play:
    play = rescued()
    play.finish(1)
    return play


# The recorder.


def test_half_a_last_line_is_dropped(tmp_path: Path) -> None:
    recorder = HistoryRecorder(tmp_path)
    recorder.note("start", Fields(job="a", fence=1))
    recorder.note("end", Fields(job="a", fence=1))
    whole = recorder.path.read_bytes()
    recorder.path.write_bytes(whole[:-7])
    assert [record.f for record in read_history(recorder.path)] == ["start"]


def test_a_damaged_middle_makes_the_verdict_unknown(tmp_path: Path) -> None:
    recorder = HistoryRecorder(tmp_path)
    recorder.note("start", Fields(job="a", fence=1))
    recorder.path.write_bytes(b'{"inc": nonsense\n' + recorder.path.read_bytes())
    assert check_directory(tmp_path, Dump({})).standing is Standing.UNKNOWN


def test_an_error_is_recorded_as_unknown_unless_it_is_a_refusal(tmp_path: Path) -> None:
    recorder = HistoryRecorder(tmp_path)
    failures: list[Callable[[], Exception]] = [lambda: StorageFull("full"), lambda: EngineError("?")]
    for failure in failures:
        with pytest.raises(EngineError), recorder.operation("enqueue", [Fields(job="a")]):
            raise failure()
    assert [r.type for r in read_history(recorder.path)] == ["invoke", "fail", "invoke", "info"]


def test_a_recorder_belongs_to_the_process_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = HistoryRecorder(tmp_path)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(ConfigurationError, match="after the fork"):
        recorder.note("start")


# Kills that matter.


def records(play: Play) -> list[Record]:
    return [record for process in play.processes.values() for record in process]


def test_a_process_that_holds_a_job_is_in_flight() -> None:
    play = Play()
    play.claim(1)
    assert in_flight(records(play))
    play.finish(1)
    assert not in_flight(records(play))


def test_a_process_that_waits_for_an_answer_is_in_flight() -> None:
    play = Play()
    play.enqueue(kind=None)
    assert in_flight(records(play))


def test_a_process_at_rest_is_not_in_flight() -> None:
    play = Play()
    play.renew()
    play.did("claim", Fields(worker="w1"), Fields())
    play.did("sweep", Fields(worker="w1"), None)
    assert not in_flight(records(play))


# Crash points.


def test_a_crash_point_counts_only_its_own_method() -> None:
    point = CrashPoint.parse("finish:after:2")
    assert [point.counts(method) for method in ("claim", "finish", "claim", "finish", "finish")] == [
        False,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "text", ["finish", "finish:during:1", "finnish:after:1", "finish:after:0", "finish:after:x"]
)
def test_a_crash_point_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="finish:after:2"):
        CrashPoint.parse(text)


def test_every_method_of_an_engine_is_a_crash_point() -> None:
    methods = {name for name in vars(Engine) if not name.startswith("_")}
    assert set(METHODS) == methods - {"limits", "wakeups"}
