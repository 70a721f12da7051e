"""What a search looks like in a terminal: a live table with progress, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from api import words
from api.exit_codes import BAD_INPUT, FAILURE, SUCCESS
from api.outlook import outlook, promotion_waited_for
from nas.ranking import Standing
from nas.states import Intent, JobState, SearchState, TrialState
from nas.views import AttemptView, BestView, JobView, SearchSummary, SearchView

FILE_WIDTH = 160
"""Where output goes to a file there is no width to keep to, only lines not to break."""

SHAPE = "layers x hidden x ffn x heads/key-value heads"


class SearchDisplay:
    """`update(view)` after every step. Everything goes to standard error, so that output can be piped."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._pace = _Pace()
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, view: SearchView) -> None:
        self._pace.see(view.tokens_done)
        if self._live is not None:
            # The status first: a table longer than the terminal is cut at its end.
            self._live.update(Group(self._status(view), leaderboard(view)))
        else:
            self._say_news(view)

    def _status(self, view: SearchView) -> RenderableType:
        """One bar: of the tokens of all retraining, or of what comes before it."""
        status = Table.grid(padding=(0, 2))
        done, total, unit = view.tokens_done, view.tokens_total, "tokens"
        early = [job for job in view.jobs if job.kind in words.EARLY]
        if early:
            told = [job.progress for job in early if job.progress is not None]
            if not told:
                return Text(_phase(view))
            done, total, unit = sum(each.done for each in told), sum(each.total for each in told), told[0].unit
        spent = ProgressBar(total=total, completed=done, width=24)
        left = "" if early else self._left(view)
        status.add_row(_phase(view), spent, f"{words.tokens(done)} of {words.tokens(total)} {unit}", left)
        return Group(status, Text(_telemetry(view), style="dim")) if _telemetry(view) else status

    def _left(self, view: SearchView) -> str:
        goes_on = view.state is SearchState.RUNNING and view.intent is Intent.RUN
        return self._pace.left(view.tokens_total - view.tokens_done) if goes_on else ""

    def _say_news(self, view: SearchView) -> None:
        """One line for each phase begun, attempt failed, and run ended."""
        # Why attempts have ended comes before what their search has come to by that.
        news = [f"{view.name}: job {job.job_id} ({job.kind}): {job.reason}" for job in view.jobs if job.reason]
        if view.correction is not None:
            told = f"the teacher's loss is {words.loss(view.correction.loss)}, {words.correction(view.correction)}"
            news.append(f"{view.name}: {told}")
        if view.sweep is not None:
            news.append(f"{view.name}: learning rate {words.sweep(view.sweep)}")
        news.append(f"{view.name}: {_phase(view)}")
        news += [
            f"{view.name}: {row.architecture.label}: {words.loss(row.loss_after_pruning)} after pruning, "
            f"{words.loss(row.loss)} after {words.tokens(row.tokens)} tokens"
            for row in view.leaderboard
            if row.state is TrialState.SUCCEEDED
        ]
        news += [
            f"{view.name}: {row.architecture.label}: stopped early, {row.reason}"
            for row in view.leaderboard
            if row.state is TrialState.STOPPED
        ]
        for line in news:
            if line not in self._said:
                self._said.add(line)
                told = "  ".join(each for each in (line, self._left(view), _telemetry(view)) if each)
                self._console.print(Text(f"{time.strftime('%H:%M:%S')}  {told}"), soft_wrap=True)


class _Pace:
    """Tokens a second since the first new token that this process saw, for the time that is left."""

    def __init__(self) -> None:
        self._tokens_at_first: int | None = None
        self._start: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def see(self, tokens: int) -> None:
        self._last = (time.monotonic(), tokens)
        if self._tokens_at_first is None:
            self._tokens_at_first = tokens
        if self._start is None and tokens > self._tokens_at_first:
            self._start = self._last

    def left(self, tokens: int) -> str:
        """The time for so many more tokens, as far as can be told."""
        if self._start is None or tokens <= 0:
            return ""
        seconds, done = self._last[0] - self._start[0], self._last[1] - self._start[1]
        return f"about {words.duration(tokens * seconds / done)} left" if done > 0 and seconds >= 5 else ""


def leaderboard(view: SearchView) -> RenderableType:
    """The leaderboard, losses in nats per token; what is running shows how far it is."""
    teacher = "" if view.teacher_loss is None else f"; the teacher's loss is {words.loss(view.teacher_loss)}"
    teacher += "" if view.correction is None else f", {words.correction(view.correction)}"
    table = plain_table(("#", "was", "shape", "parameters", "pruned", "retrained", "best", "KL", "tokens"))
    running = {job.candidate_id: job for job in view.jobs if job.kind == "trial" and job.state is JobState.RUNNING}
    for row in view.leaderboard:
        style = "bold" if row.rank == 1 else "red" if row.state is TrialState.FAILED else ""
        table.add_row(*_cells(row, running.get(row.candidate_id)), style=style)
    return Group(
        Text(f"{view.name}: a teacher of {words.parameters(view.teacher_parameters)} parameters{teacher}"),
        table,
        Text(f"shape: {SHAPE}; was: rank after pruning; losses in nats per token{_seeds(view)}", style="dim"),
        Text(
            "=: not told apart from the first of such a group, by two standard errors; best: the probability of it",
            style="dim",
        ),
        *_movements(view),
    )


def _movements(view: SearchView) -> list[Text]:
    """Whether ranks have settled; nothing before there are two measurements."""
    told = words.movements(view.rank_movements)
    return [Text(f"order from measurement to measurement, Kendall's tau: {told}", style="dim")] if told else []


def _seeds(view: SearchView) -> str:
    numbers = {row.num_seeds for row in view.leaderboard if row.num_seeds}
    several = "" if len(numbers) == 1 else "up to "
    return f", means over {several}{max(numbers)} seeds" if max(numbers, default=1) > 1 else ""


def promotions(view: SearchView) -> RenderableType:
    """One line for each promotion, with the number that commands know it by; nothing where there is none."""
    lines = []
    for each in view.promotions:
        line = f"promotion {each.id}: {each.architecture.label}, {words.promotion(each, view.state)}"
        if each.curve:
            line += f", loss {words.loss(each.curve[-1].loss)} after {words.tokens(each.curve[-1].tokens)} tokens"
        lines.append(line)
    return Text("\n".join(lines)) if lines else Group()


def searches(found: Sequence[SearchSummary], *, archived: bool = False) -> RenderableType:
    """One line for each search, its best candidate at the end."""
    if not found:
        if archived:
            return Text("no search is archived")
        return Text("no searches yet; `topiary submit SPEC` begins one")
    table = plain_table(("name", "state", "retrained", "tokens", "of", "best", "loss"))
    table.columns[0].justify = table.columns[1].justify = "left"
    for each in found:
        table.add_row(
            each.name,
            words.state(each.state, each.intent),
            f"{each.num_retrained} of {each.num_candidates}",
            words.tokens(each.tokens_done),
            words.tokens(each.tokens_total),
            "" if each.best is None else each.best.architecture.label,
            words.loss(None if each.best is None else each.best.loss),
        )
    return Group(table, Text(f"best: {SHAPE}; losses in nats per token", style="dim"))


def best(found: BestView) -> RenderableType:
    """The best architecture and where its weights are."""
    row, checkpoint = found.standing, found.checkpoint
    where = "none yet" if checkpoint is None else checkpoint.path
    return Text(
        f"shape           {row.architecture.label} ({SHAPE})\n"
        f"parameters      {row.parameters:,}\n"
        f"loss            {words.loss(row.loss)} after {words.tokens(row.tokens)} tokens, "
        f"{words.loss(row.loss_after_pruning)} after pruning\n"
        f"checkpoint      {where}"
        + ("" if checkpoint is None else f" ({checkpoint.kind}, loss {words.loss(checkpoint.loss)})")
        + ("" if found.final else "\nnot final       others may overtake it")
    )


def attempts(found: Sequence[AttemptView]) -> RenderableType:
    """One line for each attempt at a job."""
    table = plain_table(("job", "attempt", "kind", "state", "began", "took", "reason"))
    for column in table.columns[2:4] + table.columns[-1:]:
        column.justify = "left"
    table.columns[-1].no_wrap = False  # A long reason must not push the others out.
    for each in found:
        took = "" if each.ended_at is None else words.duration((each.ended_at - each.started_at).total_seconds())
        began = each.started_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(str(each.job_id), str(each.number), each.kind, each.state, began, took, each.reason or "")
    return Group(table, Text("`--job N` prints the log of a job", style="dim"))


def report(view: SearchView, *, to: TextIO, next_step: str = "") -> int:
    """Prints how a search ended, or that it waits; returns the exit code that says so.

    `next_step` is what to do with one that has used up what it may, where that is not to ask a service.
    """
    console = Console(file=to, width=None if to.isatty() else FILE_WIDTH)
    console.print(leaderboard(view))
    if view.state is SearchState.FAILED:
        print(f"topiary: the search failed: {view.reason}", file=sys.stderr)
        return BAD_INPUT if view.user_error else FAILURE
    if view.state is SearchState.CANCELLED:
        print("topiary: the search was cancelled; submitted again, it goes on from there", file=sys.stderr)
        return FAILURE
    if view.state in (SearchState.PAUSED, SearchState.STOPPED):
        told = f"{view.reason}; {next_step}" if next_step and view.reason else outlook(view)
        print(f"topiary: the search is {view.state}: {told}", file=sys.stderr)
        return FAILURE
    console.print(summary(view), highlight=False)
    for promotion in view.promotions:
        console.print(f"model           {promotion.folder}", highlight=False)
    return SUCCESS


def plain_table(headers: Sequence[str]) -> Table:
    """Numbers to the right, no lines but one below the headers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _cells(row: Standing, job: JobView | None) -> list[str]:
    ended = row.state in (TrialState.SUCCEEDED, TrialState.STOPPED)
    tokens = words.tokens(row.tokens) if ended else row.state.value
    if job is not None and job.progress is not None and job.progress.unit == "tokens":
        tokens = words.percent(job.progress.done, job.progress.total)
    return [
        words.rank(row),
        _number(row.rank_after_pruning),
        row.architecture.label,
        words.parameters(row.parameters),
        words.loss(row.loss_after_pruning),
        words.loss(row.loss if row.tokens else None),
        words.probability(row),
        words.loss(row.kl_to_teacher if row.tokens else None),
        tokens,
    ]


def summary(view: SearchView) -> str:
    """What a finished search came to, in a few lines."""
    before = "" if view.correction is None else f", {words.correction(view.correction)}"
    lines = [f"teacher         loss {words.loss(view.teacher_loss)}{before}, {view.teacher_parameters:,} parameters"]
    lines += [] if view.sweep is None else [f"learning rate   {words.sweep(view.sweep)}"]
    for promotion in view.promotions:
        row = next(row for row in view.leaderboard if row.candidate_id == promotion.candidate_id)
        architecture = promotion.architecture
        experts = f", {architecture.num_experts} experts" if architecture.num_experts else ""
        lines += [
            f"winner          {architecture.num_hidden_layers} layers, hidden {architecture.hidden_size}, "
            f"ffn {architecture.intermediate_size}{experts}, {architecture.num_attention_heads} heads in "
            f"{architecture.num_key_value_heads} groups; {row.parameters:,} parameters",
            f"its loss        {words.loss(row.loss_after_pruning)} after pruning, {words.loss(row.loss)} after "
            f"{words.tokens(row.tokens)} tokens of trial, {words.loss(promotion.curve[-1].loss)} after "
            f"{words.tokens(promotion.curve[-1].tokens)} more of promotion, "
            f"{words.loss(promotion.exported_loss)} as exported",
        ]
        if promotion.accuracy is not None:
            lines.append(f"its accuracy    {promotion.accuracy:.4g} of promotion.gate.questions, after its trial")
    if view.state is SearchState.FINISHED and view.reason is not None:
        lines.append(f"gate            {outlook(view)}")
    if not view.promotions and view.leaderboard and view.leaderboard[0].rank == 1:
        row = view.leaderboard[0]
        lines.append(
            f"best            {row.architecture.label}, {row.parameters:,} parameters, loss {words.loss(row.loss)} "
            f"after {words.tokens(row.tokens)} tokens; `topiary best {view.name}` says where its weights are"
        )
    lines += [
        f"given up        {row.architecture.label}: {row.reason}"
        for row in view.leaderboard
        if row.state is TrialState.FAILED
    ]
    if view.finished_at is not None:
        lines.append(f"time            {words.duration((view.finished_at - view.created_at).total_seconds())}")
    return "\n".join(lines)


def _phase(view: SearchView) -> str:
    if view.state is not SearchState.RUNNING or view.intent is not Intent.RUN:
        return words.state(view.state, view.intent)
    if promotion_waited_for(view) is not None:
        return outlook(view)
    kinds = [job.kind for job in view.jobs if job.state is JobState.RUNNING] or [job.kind for job in view.jobs]
    return words.PHASES[kinds[0]] if kinds else "starting"


def _telemetry(view: SearchView) -> str:
    """Of all that is retrained now."""
    return words.telemetry([job.progress for job in view.jobs if job.state is JobState.RUNNING and job.progress])


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
