"""The `calm` command. Each command imports the heavy libraries that it needs, so that `calm --help` answers at once."""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from calm.tools import console, corpora, projects

app = typer.Typer(help="Joint audio-language representations of speech.", no_args_is_help=True, pretty_exceptions_enable=False)
Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILES...", help="Audio of any rate, number of channels and format, or folders of it.", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="A released model: its folder or archive, a corpus of the project, models:/NAME@ALIAS, or OWNER/NAME on the hub. Default: the "
        "one that CALM_MODEL names, else that of the project in this folder.",
        show_default=False,
    ),
]
Texts = Annotated[
    list[str] | None, typer.Option(help="Transcript. Repeat it once per file, in the order of the files.", show_default=False)
]
Transcribe = Annotated[bool, typer.Option("--transcribe", help="Transcribe the files with Whisper.")]
Whisper = Annotated[str, typer.Option(help="Whisper model for --transcribe: a size, or a folder in faster-whisper's format.")]
Language = Annotated[str | None, typer.Option(help="Language of the speech for --transcribe: a code such as pl; auto: detected.")]
Speaker = Annotated[
    list[Path],
    typer.Option(
        help="Recordings of the person who speaks, or a folder of them, in varied moods, without labels: frames are normalised by these. "
        "Repeat it for more.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto: a GPU if there is one.")]
AsJson = console.AsJson

app.command()(projects.new)
app.command()(projects.train)


def _version(asked: bool) -> None:
    if asked:
        from calm import __version__

        console.say(f"calm {__version__}")
        raise typer.Exit


@app.callback()
def _calm(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Joint audio-language representations of speech."""


app.add_typer(corpora.app, name="corpus")


@app.command()
def predict(
    files: Files = [],  # noqa: B006
    model: Model = None,
    text: Texts = None,
    transcribe: Transcribe = False,
    whisper: Whisper = "tiny.en",
    language: Language = "en",
    speaker: Speaker = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.", show_default=False)] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict the probability of each class, from audio, text or both.

    For text alone, give --text without files. Recordings longer than 30 s are cut at their pauses, and what is longer than the model
    learned from where it is quietest, with one line per segment. A file in which nobody speaks has the result "no speech". The
    probabilities sum to 1 only if the model was trained with a softmax. After them stand the classes that the model decides and its
    decision: thresholds "tuned" on validation, "0.5", or "argmax", the likeliest class.

    Exit code 0: success. 1: a file could not be read. 2: nothing was done.

        calm predict clip.wav

        calm predict clip.wav --model data/models/msp/small --text "i am so glad to see you"

        calm predict recordings --model msp --transcribe -o predictions.csv

        calm predict --model data/models/msp/small --text "leave me alone"

        calm predict anna/new.wav --speaker anna
    """
    with console.user_errors():
        from calm.tools import prediction

        if output:
            prediction.check_table(output)
        files = prediction.audio_in(files)
        classifier, listener = console.prepare(console.load_classifier, model, device, files, text, transcribe, whisper, language)
        classifier = prediction.for_speaker(classifier, speaker)
        rows = list(prediction.rows(classifier, listener, files, text))
        if output:
            prediction.write(rows, classifier, output)
    about = prediction.about(classifier)
    if as_json:
        console.say(json.dumps(about | {"rows": rows}, indent=2))
    elif output:
        console.say(f"{output}: {len(rows)} rows; {prediction.described(about)}")
    else:
        for row in rows:
            console.print_prediction(row)
        console.say(prediction.described(about), err=True)
    raise typer.Exit(int(any(console.unreadable(row) for row in rows)))


@app.command()
def timeline(
    file: Annotated[Path, typer.Argument(help="Audio of any sampling rate, number of channels, format and length.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Table to write (CSV): time, start and end in seconds, and one column per class.")
    ],
    model: Model = None,
    picture: Annotated[Path | None, typer.Option(help="Picture to draw (PNG, SVG, PDF): probabilities, waveform, acoustic frames.")] = None,
    window: Annotated[float, typer.Option(help="Length in seconds of the window around each block.")] = 3.0,
    speaker: Speaker = [],  # noqa: B006
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write the probabilities over the time of a recording, one row per block.

    Each row is predicted from the audio of the blocks in a window around the block. A window of 3 s holds 9 blocks of 0.5 s, one every
    0.3 s; at the ends of the recording it holds fewer. Probabilities are empty where nobody speaks. Exit code 2: nothing was done.

        calm timeline talk.mp3 --model data/models/msp/small -o talk.csv --picture talk.png

    A long recording of one person makes the speaker known itself: `--speaker talk.mp3`.
    """
    with console.user_errors():
        for path in (output, *([picture] if picture else [])):
            console.check_folder_exists(path)
        from calm.tools import prediction

        with console.without_garbage_collection():
            from calm.tools.timeline import draw, pictures, timeline, write_csv

        if picture and picture.suffix[1:].lower() not in pictures():
            raise ValueError(f"{picture}: the extension of a picture is one of {', '.join(pictures())}")
        predictor = prediction.for_speaker(console.load_predictor(model, device), speaker)
        if predictor.needs_text:
            console.say("note: the model was trained on audio and text, and gets no text", err=True)
        result = timeline(file, predictor, window)
        write_csv(result, output)
        if picture:
            draw(result, picture, file.name)
    rows, seconds = len(result.time), round(result.seconds, 3)
    summary = {"rows": rows, "seconds": seconds, "output": str(output), "picture": picture and str(picture)} | prediction.about(predictor)
    console.say(json.dumps(summary) if as_json else f"{output}: {rows} rows over {seconds:g} s; {prediction.described(summary)}")


@app.command()
def embed(
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write (Parquet).")],
    model: Model = None,
    text: Texts = None,
    transcribe: Transcribe = False,
    whisper: Whisper = "tiny.en",
    language: Language = "en",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write vectors of recordings: of every block, of the utterance, and of its text.

    Recordings are cut as by `calm predict`, with one row per segment: file, start, end, text, blocks (a vector every 0.3 s),
    utterance, text_vector (with --text or --transcribe), and fault if there are no vectors. Exit codes are those of `calm predict`.

        calm embed *.wav --model data/models/msp/small -o vectors.parquet
    """
    faults: list[str] = []

    def collect_faults(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if console.unreadable(row):
                faults.append(row["fault"])
            yield row

    with console.user_errors():
        console.check_folder_exists(output)
        from calm.inference import recordings
        from calm.tools import prediction

        files = prediction.audio_in(files)
        predictor, listener = console.prepare(console.load_predictor, model, device, files, text, transcribe, whisper, language)
        from calm.tools import embedding

        rows = recordings.over_files(files, listener, lambda segment: embedding.vectors(predictor, segment), text)
        total = embedding.write(collect_faults(rows), output)
    for fault in faults:
        console.say(fault, err=True)
    summary = {"rows": total, "failed": len(faults), "output": str(output), "model": str(predictor.folder), "version": predictor.version}
    console.say(json.dumps(summary) if as_json else f"{output}: {total} rows" + (f", {len(faults)} files not read" if faults else ""))
    raise typer.Exit(int(bool(faults)))


@app.command()
def search(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="[WORDS] CORPUS_OR_FILES", help="Words, unless --like is given; then what to search.", show_default=False),
    ],
    like: Annotated[Path | None, typer.Option(help="Search for speech like this recording instead of words.", show_default=False)] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a CALP model, data/calp/<model>. Needed if there are several.")] = None,
    index: Annotated[Path | None, typer.Option(help="File (Parquet) that keeps the vectors for the next search.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of results.")] = 10,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find speech by words, or by a sound, in CALP's shared space of text and audio.

    Searches audio files, folders of them, and corpora of the project by name (those with features in data/features). Recordings longer
    than 30 s are cut at their pauses. Utterances are ranked by the cosine between the query and the mean vector of their blocks; "at"
    is the middle of the block closest to the query, in seconds of the file. An index belongs to one model and one set of recordings;
    the next search with it computes no audio again.

    Exit code 0: success. 1: a file could not be read. 2: nothing was done.

        calm search "i am so glad to see you" msp --index msp.parquet

        calm search --like clip.wav recordings/ talk.flac --top 5 --json
    """
    with console.user_errors():
        if index:
            console.check_folder_exists(index)
        words, names = ("", arguments) if like else (arguments[0], arguments[1:])
        if not names:
            raise ValueError("nothing to search was named: give a corpus, audio files or folders" + ("" if like else " after the words"))
        from calm.inference.recordings import Listener
        from calm.tools.search import Sources, rank
        from calm.tools.search_index import indexed

        sources = Sources.from_names(names)
        encoder = console.load_encoder(model, device)
        listener = Listener(encoder.extractor.sampling_rate)
        query = encoder.embed_recording(like, listener) if like else encoder.embed_text(words)
        rows, renewed = indexed(sources, encoder, listener, index) if index else (sources.rows(encoder, listener), None)
        if renewed:
            console.say(f"note: {renewed}", err=True)
        result = rank(rows, query, top, encoder.extractor)
    for fault in result.faults:
        console.say(fault, err=True)
    if as_json:
        query_settings = {"model": str(encoder.folder), "synthetic": encoder.synthetic, "words": words, "like": like and str(like)}
        console.say(json.dumps(query_settings | result.as_dict(), indent=2))
    else:
        console.print_hits(result)
    raise typer.Exit(int(bool(result.faults)))


@app.command()
def export(
    model: Annotated[str | None, typer.Argument(help="A released model, named as for `calm predict --model`.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Archive to write (.zip).", show_default=False)] = None,
    push: Annotated[str | None, typer.Option(help="OWNER/NAME on the hub to upload the model to.", show_default=False)] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to see. Mind the licences of its data.")] = False,
) -> None:
    """Put a released model into one archive, or on the hub.

    `calm predict --model` and `calm.load_classifier` take the archive as it is. Weights carry the licences of the corpora that they were
    trained on: the model's README.md names them. Exit code 2: nothing was done.

        calm export data/models/msp/small -o msp.zip

        calm export msp --push somebody/calm-msp
    """
    with console.user_errors():
        if not (output or push):
            raise ValueError("nothing to do: give -o ARCHIVE.zip, --push OWNER/NAME, or both")
        from calm.inference import archives
        from calm.inference.finding import find

        folder = find(model)
        if output:
            console.check_folder_exists(output)
            console.say(f"{output}: {archives.write(folder, output) / 1e6:.1f} MB, from {folder}")
        if push:
            from calm.inference import hub

            console.say(hub.push(folder, push, private=not public))


@app.command("app")
def serve_app(
    model: Model = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 127.0.0.1: this machine alone; 0.0.0.0: the whole network, without a password.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str], typer.Option(help="Further host name of the server, as a reverse proxy passes it on. May be repeated.")
    ] = [],  # noqa: B006
    examples: Annotated[
        Path | None,
        typer.Option(help="Folder of clips that the page offers to try. Default: synthetic speech.", show_default=False),
    ] = None,
    megabytes: Annotated[int, typer.Option(min=1, help="Largest upload.")] = 500,
    seconds: Annotated[int, typer.Option(min=1, help="Longest time of one analysis.")] = 1800,
    whisper: Annotated[str, typer.Option(help="Whisper model: a size, or a folder in faster-whisper's format.")] = "tiny.en",
    speaker: Speaker = [],  # noqa: B006
    device: Device = "auto",
) -> None:
    """Serve a page for the browser: record or upload audio, and see the predictions, also over time, or while you speak.

    Beside each probability stands the threshold of the class, tuned on the validation split when the model was released, else 0.5. Works
    without a network. Recordings never leave this machine and are removed when the page ends. The page has no password: for others than
    yourself put a reverse proxy with TLS and passwords before it (docs/security.md). Stop it with Ctrl-C. Exit code 2: the page could not
    be served.

        calm app --model data/models/msp/small --port 8000
    """
    with console.user_errors():
        from calm.tools import prediction

        predictor = prediction.for_speaker(console.load_predictor(model, device), speaker)
        from calm.tools.analysis import Analyser
        from calm.tools.app import served

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that recordings are removed
        with served(Analyser(predictor, whisper, seconds), host, port, name, megabytes * 10**6, examples) as (address, serve, _):
            console.say(f"{address} (stop with Ctrl-C)")
            with contextlib.suppress(KeyboardInterrupt):
                serve()


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A file like `params.yaml`, as those in `recipes`.")] = Path("params.yaml"),
    as_json: AsJson = False,
) -> None:
    """Estimate what a recipe takes on this machine, before anything runs.

    Prints stages, trainings, operations, time, memory and disk, from counts of the recipe's models and about 20 seconds of measurement,
    more for large models. A corpus that is not there yet has its published size. Warns where CPUs would take days. Exit code 2: a fault.

        calm plan recipes/paper.yaml
    """
    with console.user_errors():
        planning = import_module("pipeline.planning.plan")  # by name: the library itself never needs the pipeline
        result = planning.of_recipe(recipe)
        console.say(json.dumps(planning.as_dict(result), indent=2) if as_json else planning.described(result))


@app.command()
def forget(
    speaker: Annotated[str, typer.Argument(help="Name of the speaker in the table of utterances.")],
    corpus: Annotated[str | None, typer.Option(help="Corpus of the speaker; default: all that have one of this name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Remove a speaker from all that was derived from a corpus.

    Removes their rows from every table under data/, says which models heard them, and where they are still named. Later rebuilds read
    none of their utterances. The raw corpus, DVC's cache, MLflow and models that were given away are left to you. Exit code 2: there is
    no such speaker.

        calm forget MSP-PODCAST_0023 --corpus msp
    """
    with console.user_errors():
        forgetting = import_module("pipeline.forgetting")  # by name: the library itself never needs the pipeline
        done = forgetting.forget(speaker, corpus)
        console.say(json.dumps(vars(done), indent=2) if as_json else forgetting.described(done))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the installation.

    Reports the versions of all required packages, devices, packaged weights and their SHA-256, the MLflow store and the Prefect server
    that MLFLOW_TRACKING_URI and PREFECT_API_URL name, and free disk. Exit code 1: something that is needed is missing.

        calm doctor
    """
    from dataclasses import asdict

    from calm.tools.doctor import examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            console.say(f"{'FAULT' if finding.fault else 'ok':6}{finding.name:24}{finding.state}")
    if as_json:
        console.say(json.dumps([asdict(finding) for finding in findings], indent=2))
    raise typer.Exit(int(any(finding.fault for finding in findings)))
