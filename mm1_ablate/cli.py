"""The command line: each command is a few lines over the rooms below.

Nothing heavy is imported until a command needs it, so that `--help` answers at once. Exit codes are in `commands/common.py`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperArgument, TyperCommand

from mm1_ablate.commands.common import (
    BUDGET_FORBIDS,
    FILE_IS_WRONG,
    SOME_FAILED,
    any_text_can_be_said,
    print_json,
    require_current_directory,
    say,
    stop,
    store_of,
    store_place,
    tell,
    unusable_place,
    using_store,
)
from mm1_ablate.config.passwords import WithoutPasswords


class Command(TyperCommand):
    """A command whose help shows arguments as people write them: SWEEP, not {SWEEP} <path>. A folder that cannot be used ends it with 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if sentence := unusable_place(error):
                stop(FILE_IS_WRONG, sentence)
            raise

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        for argument in params:
            if isinstance(argument, TyperArgument):
                argument.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "").replace("......", "...") for piece in super().collect_usage_pieces(ctx)]


app = typer.Typer(
    name="mm1-ablate",
    help="Which part of a multimodal training recipe matters? Give a sweep file, get a comparison with error bars.",
    epilog="Exit codes: 0 done, 1 some trials failed, 2 the file is wrong, 3 the budget forbids it, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP", help="A sweep file.", show_default=False)]
SweepFiles = Annotated[list[Path], typer.Argument(metavar="SWEEP...", help="One or several sweep files.", show_default=False)]
StorePlace = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="MM1_ABLATE_STORE",
        metavar="PLACE",
        parser=store_place,
        help="Where trials and scores are kept: a folder, or s3://BUCKET/PREFIX.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
WithoutData = Annotated[
    bool, typer.Option("--without-data", help="Do not look at data, on a machine that lacks it. Fingerprints are provisional then.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try failed trials again.")]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", metavar="ADDRESS", help="Address of a Ray cluster.", show_default="this machine alone"),
]
Cpus = Annotated[int | None, typer.Option(min=1, metavar="CORES", help="CPU cores to use on this machine.", show_default="all")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Try it with this setting everywhere; may be repeated.", show_default=False),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="ARM", help="Try only this arm, or group, and its baseline; may be repeated.", show_default=False),
]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, metavar="N", help="Try the first N seeds.", show_default=False)]
Smoke = Annotated[bool, typer.Option("--smoke", help="Try whether all of it runs: a few steps and items, one seed, in STORE-smoke.")]
DEFAULT_STORE = "ablations"


def _tried(settings: list[str] | None, only: list[str] | None, seeds: int | None, smoke: bool) -> Any:
    """What of a study is tried, by the command line."""
    from mm1_ablate.config.sweep.tried import Try

    return Try(tuple(settings or ()), tuple(only or ()), seeds, smoke)


def _version(wanted: bool) -> None:
    if wanted:
        from mm1_ablate.version import __version__

        tell(f"mm1-ablate {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Declared ablations of multimodal models, trained, scored and compared."""
    # No command shows a window; what a notebook or a matplotlibrc names may not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    any_text_can_be_said()
    sys.stderr = cast(TextIO, WithoutPasswords(sys.stderr))  # what libraries say, and tracebacks
    require_current_directory()


@app.command(cls=Command)
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder; created if it is missing.")] = Path(".")) -> None:
    """Write a commented sweep to start from."""
    from mm1_ablate.commands.init import write_sweep

    try:
        written = write_sweep(folder)
    except FileExistsError as error:
        stop(FILE_IS_WRONG, f"{error} exists already; nothing was written. Name another folder: mm1-ablate init DIR")
    except OSError as error:
        stop(FILE_IS_WRONG, f"{folder}: {error.strerror}; name a folder that can be written")
    for path in written:
        tell(str(path))
    say(f"next: mm1-ablate plan {written[0]}")


@app.command(cls=Command)
def validate(
    sweeps: SweepFiles,
    without_data: WithoutData = False,
    no_import: Annotated[bool, typer.Option("--no-import", help="Import no classes of your own: for files that you do not trust.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check sweep files and the data that they name.

    All errors are shown at once, with line and column; then warnings, and what each arm changes."""
    from mm1_ablate.commands.validate import validate as check

    reports = [check(path, without_data, no_import) for path in sweeps]
    if as_json:
        print_json({"valid": all(report.valid for report in reports), "files": [report.to_json() for report in reports]})
    for report in reports:
        if not report.valid:
            say(report.in_words())
        elif not as_json:
            tell(report.in_words())
    if not all(report.valid for report in reports):
        raise typer.Exit(FILE_IS_WRONG)


@app.command(cls=Command)
def plan(
    sweeps: SweepFiles,
    store: StorePlace = DEFAULT_STORE,
    retry: Retry = False,
    without_data: WithoutData = False,
    gpu: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Estimate hours and memory for this GPU; may be repeated.", show_default=False)
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, metavar="SHARE", help="Share of its peak that a GPU reaches in training.", show_default="0.4"),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Time a few steps of the cheapest and the most expensive arm, and correct the estimates.")
    ] = False,
    address: Address = None,
    settings: Settings = None,
    only: Only = None,
    seeds: Seeds = None,
    smoke: Smoke = False,
    as_json: AsJson = False,
) -> None:
    """Show what would run, why, and what it would cost.

    Nothing is trained, except for the few steps of --probe, whose timings are kept in the store."""
    from mm1_ablate.commands.common import console, read_studies, require_own_place
    from mm1_ablate.commands.plan import gpus_named, not_recorded_yet, probe_arms
    from mm1_ablate.commands.plan_table import show_plan
    from mm1_ablate.plan.plan import plan_together

    gpus, tried = gpus_named(gpu, utilisation), _tried(settings, only, seeds, smoke)
    with using_store(store_of(store, tried)) as records:
        studies = read_studies(sweeps, "nowhere" if without_data else "check", begins=True, tried=tried)
        for study in studies:
            require_own_place(study, records)
        planned = plan_together(studies, records, retry, gpus)
        if probe:
            probe_arms(planned, records, address, made_up=without_data)
            planned = plan_together(studies, records, retry, gpus)
        changed = [] if without_data else [line for study in studies for line in not_recorded_yet(study, records)]
    if as_json:
        print_json(planned.to_json())
    else:
        show_plan(planned, console())
        for line in changed:
            tell(line)
    if planned.over_budget:
        stop(BUDGET_FORBIDS, *planned.over_budget)


@app.command(cls=Command)
def run(
    sweep: SweepFile,
    store: StorePlace = DEFAULT_STORE,
    address: Address = None,
    cpus: Cpus = None,
    retry: Retry = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    on_finish: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Run COMMAND when all is done, in a shell.", show_default=False)
    ] = None,
    on_failure: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Run COMMAND when it ends otherwise.", show_default=False),
    ] = None,
    settings: Settings = None,
    only: Only = None,
    seeds: Seeds = None,
    smoke: Smoke = False,
) -> None:
    """Train and evaluate what is missing, then compare.

    Run it again after you edit the file: only what is new is done. With --set, --only, --seeds or --smoke it is a try: a study of its own,
    which judges no expectation."""
    if dry_run:
        return plan([sweep], store, retry, settings=settings, only=only, seeds=seeds, smoke=smoke)
    from mm1_ablate.commands.hooks import Hooks
    from mm1_ablate.commands.run import run_sweep

    tried = _tried(settings, only, seeds, smoke)
    place = store_of(store, tried)
    with Hooks(on_finish, on_failure, {"SWEEP": str(sweep), "STORE": place}).around() as hooks, using_store(place) as records:
        raise typer.Exit(run_sweep(sweep, records, address=address, cpus=cpus, retry=retry, tried=tried, facts=hooks.facts))


@app.command(cls=Command)
def evaluate(sweep: SweepFile, store: StorePlace = DEFAULT_STORE, address: Address = None, cpus: Cpus = None) -> None:
    """Evaluate saved models on newly added tasks.

    Nothing is trained. Use it after tasks, shots or seeds of the evaluation were added or changed in a finished study."""
    from mm1_ablate.commands.run import run_sweep

    with using_store(store) as records:
        raise typer.Exit(run_sweep(sweep, records, address=address, cpus=cpus, evaluate_only=True))


@app.command(cls=Command)
def data(
    sweep: SweepFile,
    arm: Annotated[str | None, typer.Option(metavar="ARM", help="An arm of the sweep.", show_default="the baseline")] = None,
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="A stage of a chain, by name or by number from 1.", show_default="the last"),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Look at no more than N documents of each source.")] = 500,
    documents: Annotated[int, typer.Option(min=0, metavar="N", help="Show N documents on the page.")] = 12,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Seed of the data order, as in a trial.")] = 0,
    to: Annotated[Path, typer.Option(metavar="FILE", help="Write the page to FILE.")] = Path("data.html"),
    as_json: AsJson = False,
) -> None:
    """Show what the data of an experiment holds.

    What each source holds, how often it is read, what cannot be read, and documents as the model sees them."""
    from mm1_ablate.commands.common import console, write_page
    from mm1_ablate.commands.data import look_at_data, page_of, show_data, to_json

    looked_at, inspection = look_at_data(sweep, arm, stage, sample, documents, seed, console(stderr=as_json))
    write_page(to, page_of(looked_at, inspection, f"{sweep.stem}, {looked_at.name}"))
    if as_json:
        print_json(to_json(looked_at, inspection))
        return
    show_data(looked_at, inspection, console())
    tell(f"{len(inspection.shown)} documents as the model sees them: {to}")


@app.command(cls=Command)
def status(
    sweep: SweepFile,
    store: StorePlace = DEFAULT_STORE,
    settings: Settings = None,
    only: Only = None,
    seeds: Seeds = None,
    smoke: Smoke = False,
    as_json: AsJson = False,
) -> None:
    """Show the status of each trial."""
    from mm1_ablate.commands.common import console, read_finished
    from mm1_ablate.commands.status import show_status, status_json

    tried = _tried(settings, only, seeds, smoke)
    with using_store(store_of(store, tried)) as records:
        study = read_finished(sweep, records, tried)
        if not records.root.is_dir():
            say(f"there is no store at {records.address} yet")
        if as_json:
            print_json(status_json(study, records))
        else:
            show_status(study, records, console())


@app.command(cls=Command)
def studies(store: StorePlace = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List the studies of a store: sweep, trials, done, size, age."""
    from mm1_ablate.commands.common import console, require_store
    from mm1_ablate.commands.studies import show_studies, studies_json

    with using_store(store) as records:
        require_store(records)
        if as_json:
            print_json(studies_json(records))
        else:
            show_studies(records, console())


@app.command(cls=Command)
def report(
    sweeps: SweepFiles,
    store: StorePlace = DEFAULT_STORE,
    as_json: AsJson = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Also write the comparison to a file, as its ending says: .tex, .csv, .md, .html, .pdf; or to a folder.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Show what has changed for each arm since a commit, or a date such as 2026-11-01, or from another store to this one.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    only: Only = None,
    seeds: Seeds = None,
    smoke: Smoke = False,
) -> None:
    """Compare the arms by the results in the store.

    It works in the middle of a run, too: missing results are named. Of several sweep files the arms stand in one table."""
    from mm1_ablate.commands.report import report_side_by_side, report_since, report_study

    tried = _tried(settings, only, seeds, smoke)
    with using_store(store_of(store, tried)) as records:
        if since is not None:
            if len(sweeps) > 1:
                stop(FILE_IS_WRONG, "--since looks at one study: name one sweep file")
            report_since(sweeps[0], records, since, to, as_json, tried)
        elif len(sweeps) > 1:
            report_side_by_side(sweeps, records, to, as_json, tried)
        else:
            report_study(sweeps[0], records, to, as_json, tried)


@app.command(cls=Command)
def examples(
    sweep: SweepFile,
    first: Annotated[str, typer.Argument(metavar="ARM", help="An arm of the sweep.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="OTHER_ARM", help="Another arm of the sweep.", show_default=False)],
    task: Annotated[str | None, typer.Option(metavar="TASK", help="Show this task only.", show_default="all")] = None,
    shots: Annotated[int | None, typer.Option(min=0, metavar="SHOTS", help="Show this number of shots only.", show_default="all")] = None,
    seed: Annotated[int | None, typer.Option(metavar="SEED", help="Seed of both trials.", show_default="the first that both have")] = None,
    number: Annotated[int, typer.Option(min=0, metavar="N", help="Show no more than N items on the page.")] = 40,
    to: Annotated[Path, typer.Option(metavar="FILE", help="Write the page to FILE.")] = Path("examples.html"),
    store: StorePlace = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Show items that two arms answered differently.

    Each with its image, question, both answers and the reference."""
    from mm1_ablate.commands.common import console, read_finished, require_store, write_page
    from mm1_ablate.commands.examples import look_for_differences, page_of, show_counts

    with using_store(store) as records:
        study = read_finished(sweep, records)
        require_store(records)
        differences = look_for_differences(study, records, (first, second), task, shots, seed, number)
    write_page(to, page_of(differences))
    if as_json:
        print_json(differences.to_json())
        return
    show_counts(differences, console())
    tell(f"{len(differences.examples)} items that they answered differently: {to}")


@app.command(cls=Command)
def ui(
    sweep: Annotated[
        Path | None, typer.Argument(metavar="SWEEP", help="Open MLflow at the study of this sweep file.", show_default=False)
    ] = None,
    store: StorePlace = DEFAULT_STORE,
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the server on this machine.")] = 5000,
    browser: Annotated[bool, typer.Option("--open", help="Open the browser.")] = False,
    settings: Settings = None,
    only: Only = None,
    seeds: Seeds = None,
    smoke: Smoke = False,
) -> None:
    """Start MLflow and print the address of the study."""
    from mm1_ablate.commands.run import open_ui

    tried = _tried(settings, only, seeds, smoke)
    with using_store(store_of(store, tried)) as records:
        raise typer.Exit(open_ui(sweep, records, port, browser, tried))


@app.command(cls=Command)
def sync(sweep: SweepFile, store: StorePlace = DEFAULT_STORE) -> None:
    """Write MLflow again from the store.

    All of it comes from there: use it after a server was lost, or to show a finished study on another one (MLFLOW_TRACKING_URI)."""
    from mm1_ablate.commands.sync import sync_study

    with using_store(store) as records:
        raise typer.Exit(sync_study(sweep, records))


@app.command(cls=Command)
def schema(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder; created if it is missing.")] = Path("schemas")) -> None:
    """Write JSON Schemas for editors."""
    from mm1_ablate.commands.init import write_schemas

    try:
        written = write_schemas(folder)
    except OSError as error:
        stop(FILE_IS_WRONG, f"{folder}: {error.strerror}; name a folder that can be written")
    for path in written:
        tell(str(path))


@app.command(cls=Command)
def doctor(store: StorePlace = DEFAULT_STORE, address: Address = None) -> None:
    """Check that this machine can run a study."""
    from mm1_ablate.commands.doctor import examine

    problems = 0
    for check in examine(store, address):
        tell(f"{'ok     ' if check.ok else 'problem'}  {check.name:<8}  {check.found}")
        if not check.ok:
            problems += 1
            if check.remedy:
                tell(f"{'':<19}to do: {check.remedy}")
    if problems:
        stop(SOME_FAILED, f"{problems} problem{'s' if problems > 1 else ''}")


if __name__ == "__main__":
    app()
