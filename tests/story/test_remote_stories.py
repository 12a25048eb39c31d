"""Stories that were told of a local app, told again of one behind a site: what it sees must be the same."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from nightcrew import Nightcrew
from tests.story import (
    test_enqueue,
    test_failures,
    test_files,
    test_first_job,
    test_inside_a_job,
    test_stopping_jobs,
    test_when_and_where,
)
from tests.story.houses import House, open_house

# The way over HTTP is one for all stores; `test_remote.py` goes it on each.
pytestmark = pytest.mark.engine("sqlite")

Story = Callable[..., Coroutine[Any, Any, None]]

STORIES: list[Story] = [
    test_first_job.test_a_function_becomes_a_task_and_its_call_a_job,
    test_first_job.test_arguments_and_results_come_back_as_what_they_were,
    test_first_job.test_arguments_that_do_not_fit_are_refused_where_they_are_given,
    test_first_job.test_a_job_is_found_again_by_its_id,
    test_first_job.test_the_same_id_twice_is_one_job,
    test_first_job.test_tasks_can_live_in_a_package_that_knows_no_app,
    test_first_job.test_jobs_are_searched_newest_first_and_page_by_page,
    test_failures.test_a_failed_attempt_is_followed_by_another,
    test_failures.test_a_job_that_fails_for_good_is_a_dead_letter_with_every_error,
    test_failures.test_a_dead_letter_can_be_retried,
    test_failures.test_a_call_may_have_its_own_retry,
    test_failures.test_nothing_is_enqueued_that_could_not_be_stored,
    test_files.test_a_file_goes_in_and_another_comes_out,
    test_files.test_a_name_is_only_shown_and_never_a_path,
    test_stopping_jobs.test_a_call_may_have_its_own_deadline,
    test_stopping_jobs.test_a_waiting_job_is_cancelled_at_once,
    test_stopping_jobs.test_a_running_async_job_is_cancelled,
    test_stopping_jobs.test_a_cancelled_job_can_be_retried,
    test_when_and_where.test_a_job_can_be_delayed,
    test_when_and_where.test_a_job_can_have_a_time,
    test_when_and_where.test_higher_priority_runs_first_and_equals_in_order,
    test_inside_a_job.test_progress_and_log_are_seen_from_outside_while_it_runs,
    test_enqueue.test_many_wait_for_many_and_each_gets_its_own,
    test_enqueue.test_waiting_ends_when_its_time_is_over,
    test_enqueue.test_what_is_final_already_is_answered_without_waiting,
    test_enqueue.test_a_job_that_does_not_exist_is_told_everywhere,
    test_enqueue.test_giving_up_waiting_disturbs_nobody_else,
    test_enqueue.test_a_batch_with_one_bad_call_enqueues_none,
    test_enqueue.test_a_batch_may_name_jobs_that_are_there_already,
]


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(database_url, tmp_path, any_task=True) as house:
        yield house


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__.removeprefix("test_"))
async def test_over_http(story: Story, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[story.__module__]
    if hasattr(module, "working"):
        monkeypatch.setattr(module, "working", house.working)
    async with Nightcrew(await house.url("enqueue", "operate")) as app:
        there = {"app": app, "opened": app, "tmp_path": tmp_path}
        app.include(test_enqueue.tasks)
        await story(*(there[name] for name in inspect.signature(story).parameters))
