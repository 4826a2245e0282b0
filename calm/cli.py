"""The `calm` command. What is heavy is imported by the command that needs it, so that `calm --help` is there at once."""

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from calm.corpora import FORMATS, CorpusError

SHORT = {"msp": "msp_podcast"}  # other names of formats

app = typer.Typer(help="Joint audio-language representations of speech.", no_args_is_help=True, add_completion=False)
Files = Annotated[list[Path], typer.Argument(metavar="FILES...", help="Audio of any rate, channel count and format.", show_default=False)]
Model = Annotated[Path, typer.Option(help="Folder of a released model: data/heads/<corpus>/<model>/model.")]
Texts = Annotated[list[str] | None, typer.Option(help="What is said. May be repeated, one a file in their order.", show_default=False)]
Transcribe = Annotated[bool, typer.Option("--transcribe", help="Have Whisper say what is said.")]
Whisper = Annotated[str, typer.Option(help="A Whisper model for --transcribe: a size, or a folder of faster-whisper's format.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto: a GPU where there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

corpus_app = typer.Typer(help="Corpora: what they hold, and what is wrong with them.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")


@corpus_app.callback()
def _group() -> None:
    """Corpora: what they hold, and what is wrong with them."""


@corpus_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="The corpus as its publisher ships it; for `manifest` the table.")],
    format: Annotated[str, typer.Option(help=f"{', '.join(FORMATS)}; msp is msp_podcast.")],
    option: Annotated[list[str], typer.Option(help="An option of the format, NAME=VALUE in JSON; may be repeated.")] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Say before any long work whether a folder is what it should be.

    Reads labels, transcripts and the header of every audio file. Names what is missing or wrong, parts of the layout that are not
    there, and audio that no row uses. Tells the disk and the time that each stage will need here, from about ten seconds of measuring.

    Exit code 0: no fault. 1: rows with faults, which the pipeline would drop, or too little disk. 2: the corpus cannot be used.

        calm corpus check data/raw/mosei --format mosei

        calm corpus check data/raw/ravdess --format ravdess --option 'test=[19, 20]'
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin on a busy machine would spoil the measuring
    from calm.corpora import layout
    from calm.tools import inspection

    format, options = SHORT.get(format, format), dict(map(_option, option))
    try:
        result = inspection.inspect(format, path, options)
    except CorpusError as error:
        absent = layout.missing(format, path, options) if format in FORMATS and path.is_dir() else []
        said = "\n".join([f"{path} cannot be used: {error}", *inspection.described_missing(absent)])
        typer.echo(json.dumps({"error": str(error), "missing": absent}) if as_json else said, err=not as_json)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(result, indent=2) if as_json else inspection.described(result))
    raise typer.Exit(2 if not result["kept"] else int(bool(result["faults"]) or not result["needs"]["enough"]))


def _option(text: str) -> tuple[str, object]:
    """`name=value`, the value as JSON or, where it is none, as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@app.command()
def predict(
    model: Model,
    files: Files = [],  # noqa: B006
    text: Texts = None,
    transcribe: Transcribe = False,
    whisper: Whisper = "tiny.en",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say which emotions are heard and read: the probability of each class.

    From audio, from text alone (--text without files), or from both. Recordings over 30 s are cut at their pauses, a line a piece; where
    nobody speaks there is "no speech" and no emotion. The probabilities of the classes do not sum to 1.

    Exit code 0: all done. 1: a file could not be read. 2: nothing was done.

        calm predict clip.wav --model data/heads/msp/small/model --text "i am so glad to see you"

        calm predict *.flac --model data/heads/msp/small/model --transcribe --json

        calm predict --model data/heads/msp/small/model --text "leave me alone"
    """
    with _told():
        predictor, listener, texts = _prepared(_classifier, model, device, files, text, transcribe, whisper)
        from calm.inference import recordings

        if files:
            rows = list(recordings.each(files, listener, lambda piece: recordings.answer(predictor, piece), texts))
        else:
            named = [dict(zip(predictor.classes, found.tolist(), strict=True)) for found in predictor(None, texts)]
            rows = [{"file": None, "fault": None, "text": said, "probabilities": one} for said, one in zip(texts, named, strict=True)]
    if as_json:
        about = {"model": str(model), "synthetic": predictor.synthetic, "classes": predictor.classes}
        typer.echo(json.dumps(about | {"rows": rows}, indent=2))
    else:
        for row in rows:
            _say(row)
    raise typer.Exit(int(any(_failed(row) for row in rows)))


@app.command()
def timeline(
    file: Annotated[Path, typer.Argument(help="Audio of any rate, channel count, format and length.")],
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table (CSV): time, start, end in seconds, and a column a class.")],
    picture: Annotated[Path | None, typer.Option(help="Picture (PNG, SVG, PDF): probabilities, waveform, log-mel.")] = None,
    window: Annotated[float, typer.Option(help="Seconds of the blocks that are scored together, around each one.")] = 3.0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write the probabilities over the time of a recording, a row a block.

    A row's probabilities are those of the blocks around it that lie within the window (of 3 s: 9 blocks of 0.5 s, one every 0.3 s, which
    are 2.9 s; fewer at the ends), from audio alone. They are empty where nobody speaks in the window. Exit code 2: nothing was done.

        calm timeline talk.mp3 --model data/heads/msp/small/model -o talk.csv --picture talk.png
    """
    with _told():
        for path in (output, *([picture] if picture else [])):
            _writable(path)
        with _loading():
            from calm.tools.timeline import draw, pictures, timeline, write_csv

        if picture and picture.suffix[1:].lower() not in pictures():
            raise ValueError(f"{picture}: pictures are of the kinds {', '.join(pictures())}")
        predictor = _predictor(model, device)

        if predictor.needs_text:
            typer.echo("note: the model was trained on audio and text; here it sees audio alone", err=True)
        found = timeline(file, predictor, window)
        write_csv(found, output)
        if picture:
            draw(found, picture, file.name)
    made = {"rows": len(found.time), "seconds": round(found.seconds, 3), "output": str(output), "picture": picture and str(picture)}
    typer.echo(json.dumps(made) if as_json else f"{output}: {made['rows']} rows over {made['seconds']:g} s")


@app.command()
def embed(
    files: Files,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table (Parquet).")],
    text: Texts = None,
    transcribe: Transcribe = False,
    whisper: Whisper = "tiny.en",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write the vectors of recordings: of every block, of the utterance, and of its text.

    A row a piece (recordings over 30 s are cut at their pauses): file, start, end, text, blocks (a vector every 0.3 s), utterance,
    text_vector (with --text or --transcribe), and fault where there is none of them. Exit codes are those of `calm predict`.

        calm embed *.wav --model data/heads/msp/small/model -o vectors.parquet
    """
    with _told():
        _writable(output)
        predictor, listener, texts = _prepared(_predictor, model, device, files, text, transcribe, whisper)
        from calm.inference import recordings
        from calm.tools import embedding

        failed: list[str] = []

        def noted(rows: Iterator[dict]) -> Iterator[dict]:
            for row in rows:
                if _failed(row):
                    failed.append(row["fault"])
                yield row

        rows = recordings.each(files, listener, lambda piece: embedding.vectors(predictor, piece), texts)
        total = embedding.write(noted(rows), output)
    for fault in failed:
        typer.echo(fault, err=True)
    said = {"rows": total, "failed": len(failed), "output": str(output)}
    typer.echo(json.dumps(said) if as_json else f"{output}: {total} rows" + (f", {len(failed)} files not read" if failed else ""))
    raise typer.Exit(int(bool(failed)))


@app.command()
def search(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="[WORDS] CORPUS_OR_FILES", help="Words, unless --like is given; then what is searched.", show_default=False),
    ],
    like: Annotated[Path | None, typer.Option(help="A recording in place of words: find what sounds like it.", show_default=False)] = None,
    model: Annotated[Path | None, typer.Option(help="CALP's folder, data/calp/<model>; may be left out where there is one.")] = None,
    index: Annotated[Path | None, typer.Option(help="Keep the vectors in this file (Parquet), or take them from it.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 10,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find speech by words, or by a sound, in the space that CALP gives text and audio.

    Searched are audio files, folders of them, and corpora of the project by name (those with log-mel in data/features). Recordings over
    30 s are cut at their pauses. Ranked by the cosine of the query and the mean of the vectors of an utterance's blocks; "at" is the
    middle of the block that is most like the query, in seconds of the file. An index belongs to one model and one set of recordings; a
    second search with it computes no audio anew.

    Exit code 0: all done. 1: a file could not be read. 2: nothing was done.

        calm search "i am so glad to see you" msp --index msp.parquet

        calm search --like clip.wav recordings/ talk.flac --top 5 --json
    """
    with _told():
        if index:
            _writable(index)
        words, *names = [None, *arguments] if like else arguments
        if not names:
            raise ValueError("nothing to search was named: give a corpus, audio files or folders" + ("" if like else " after the words"))
        from calm.inference.recordings import Listener
        from calm.tools import search as searching

        sources = searching.Sources.of(names)
        space = _on(device, lambda: searching.Space(_calp(model), _place(device)))
        listener = Listener(space.extractor.sampling_rate)
        query = space.of_recording(like, listener) if like else space.of_text(words)
        rows, renewed = searching.indexed(sources, space, listener, index) if index else (sources.rows(space, listener), None)
        if renewed:
            typer.echo(f"note: {renewed}", err=True)
        found = searching.rank(rows, query, top, space.extractor)
    for fault in found.faults:
        typer.echo(fault, err=True)
    if as_json:
        about = {"model": str(space.folder), "synthetic": space.synthetic, "words": words, "like": like and str(like)}
        typer.echo(json.dumps(about | found.as_dict(), indent=2))
    else:
        _table(found)
    raise typer.Exit(int(bool(found.faults)))


def _calp(model: Path | None) -> Path:
    """CALP's folder that was named, or the only one of the project."""
    from calm.tools.search import DATA, models

    if model:
        return model
    found = models()
    if len(found) != 1:
        there = f"{DATA / 'calp'} holds {', '.join(path.name for path in found)}" if found else f"{DATA / 'calp'} holds no model"
        raise ValueError(f"--model was not given and {there}: name one (the stage `calp` makes it)")
    return found[0]


def _table(found) -> None:
    """Hits as a table, and a line on what was searched."""
    typer.echo(f"{'rank':>4}  {'cosine':>6}  {'seconds':>7}  {'at':>8}  utterance")
    for hit in found.hits:
        where = hit.id or f"{hit.file} {hit.start:.2f}-{hit.end:.2f} s"
        said = f'   "{hit.text}"' if hit.text else ""
        typer.echo(f"{hit.rank:>4}  {hit.cosine:>6.3f}  {hit.seconds:>7.2f}  {hit.at:>8.2f}  {where}{said}")
    silent = f", {len(found.silent)} files without speech" if found.silent else ""
    failed = f", {len(found.faults)} files not read" if found.faults else ""
    typer.echo(f"{found.searched} utterances searched{silent}{failed}")


@app.command("app")
def page(
    model: Model,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    host: Annotated[
        str, typer.Option(help="127.0.0.1: this machine alone; 0.0.0.0: whoever reaches it, without a password.")
    ] = "127.0.0.1",
    whisper: Annotated[str, typer.Option(help="A Whisper model: a size, or a folder of faster-whisper's format.")] = "tiny.en",
    device: Device = "auto",
) -> None:
    """Serve a page for the browser: record or drop a file, and see what is heard and read, and over time.

    Beside each probability stands the class's threshold, as it was tuned on validation when the model was released, else 0.5. Works
    without a network; no recording leaves this machine, or stays when the page ends. Ctrl-C ends it. Exit code 2: nothing was served.

        calm app --model data/heads/msp/small/model --port 8000
    """
    with _told():
        predictor = _predictor(model, device)
        from calm.tools.app import Desk, served

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that recordings are removed
        with served(Desk(predictor, whisper), host, port) as (address, serve, _):
            typer.echo(f"{address} (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                serve()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed here and whether it works.

    Versions of the packages against those needed, devices, packaged weights and their SHA-256, the MLflow store and the Prefect server that
    MLFLOW_TRACKING_URI and PREFECT_API_URL name, free disk. Exit code 1 where something that is needed is missing.

        calm doctor
    """
    from dataclasses import asdict

    from calm.tools.doctor import examine

    findings = []
    for one in examine():
        findings.append(one)
        if not as_json:
            typer.echo(f"{'FAULT' if one.fault else 'ok':6}{one.what:24}{one.found}")
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in findings], indent=2))
    raise typer.Exit(int(any(one.fault for one in findings)))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What cannot be used ends the command with one sentence and exit code 2; libraries keep quiet."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # before they are imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """No garbage collection of what is loaded: looking through it again and again costs a fifth of a short command, and all of it stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _classifier(model: Path, device: str):
    """A model for answers alone, as quickly as there is one."""

    def load():
        from calm.inference.loading import compiled

        return compiled(model, device) or _by_torch(model, device)

    return _on(device, load)


def _predictor(model: Path, device: str):
    """A model with all that it computes."""

    return _on(device, lambda: _by_torch(model, device))


def _by_torch(model: Path, device: str):
    from calm.inference.torch_classifier import Predictor

    return Predictor(model, _place(device))


def _place(device: str):
    """The device's name; from here on Transformers shows no progress of a second's work."""
    from transformers.utils import logging

    from calm.inference.torch_classifier import place

    logging.disable_progress_bar()
    return place(device)


def _on(device: str, load: Callable):
    """What `load` loads, on that device. Raises ValueError for one that is not there."""
    with _loading():
        try:
            loaded = load()
        except (RuntimeError, AssertionError) as error:  # torch's, for a device that is not there
            raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from None
    if loaded.synthetic:
        typer.echo("note: the model was trained on synthetic speech; what it says of people's means nothing", err=True)
    return loaded


def _prepared(load: Callable, model: Path, device: str, files: list[Path], texts: list[str] | None, transcribe: bool, whisper: str):
    """Model as `load` gives it, reader of recordings, and a text a file or None. Raises ValueError where options do not go together."""
    if not files and not texts:
        raise ValueError("neither files nor --text were given: name audio files, or give a text")
    if transcribe and (texts or not files):
        raise ValueError("--transcribe is for files without --text: leave one of them out")
    if files and texts and len(texts) != len(files):
        raise ValueError(f"{len(files)} files and {len(texts)} texts: repeat --text once a file, in their order")
    predictor = load(model, device)
    if predictor.modality == "text" and not texts and not transcribe:
        raise ValueError("this model was trained on text alone: give --text or --transcribe")
    if predictor.modality == "audio" and not files:
        raise ValueError("this model was trained on audio alone: name audio files")
    if predictor.modality == "both" and not (files and (texts or transcribe)):
        absent = "no text (--text or --transcribe)" if files else "no audio"
        typer.echo(f"note: the model was trained on audio and text, and sees {absent}", err=True)
    from calm.inference.recordings import Listener, load_whisper

    return predictor, Listener(predictor.sample_rate, load_whisper(whisper) if transcribe else None), texts


def _writable(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path.parent} does not exist: make the folder first, or write elsewhere")


def _failed(row: dict) -> bool:
    """Whether a file could not be read; that nobody speaks in it is an answer."""
    from calm.inference.recordings import NO_SPEECH

    return row["fault"] not in (None, NO_SPEECH)


def _say(row: dict) -> None:
    """A line of the result; what cannot be read goes to the other stream."""
    if row["fault"]:
        typer.echo(row["fault"] if _failed(row) else f"{row['file']}: {row['fault']}", err=_failed(row))
        return
    ordered = sorted(row["probabilities"].items(), key=lambda item: -item[1])
    where = f"{row['file']} {row['start']:.2f}-{row['end']:.2f} s: " if row["file"] else ""
    said = f'   "{row["text"]}"' if row["text"] else ""
    typer.echo(where + "  ".join(f"{name} {value:.2f}" for name, value in ordered) + said)


if __name__ == "__main__":
    app()
