"""`t5kit serve`: models over HTTP, with a page to look at."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t5kit.cli import options
from t5kit.cli.interrupts import interrupts_end_at_once
from t5kit.errors import DependencyError, RequestError

if TYPE_CHECKING:
    from t5kit.serving.config import ModelSource

_LEVELS = ("debug", "info", "warning", "error")


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]MODEL",
            help='A model folder, a Hub id, or "mini" (repeat it; the first answers requests that name none).',
            show_default="T5KIT_MODEL",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[@MODEL]=FOLDER", help="An adapter that requests may name as their model.", show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 is any free one.", min=0, max=65535)] = 8000,
    engine: options.EngineOption = "auto",
    weights: options.WeightsOption = "auto",
    threads: options.ThreadsOption = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
    max_input_tokens: options.MaxInputTokensOption = 4096,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens a request may ask for.")] = 2048,
    max_batch_rows: Annotated[int, typer.Option(help="Sequences decoded together (a beam is one).")] = 256,
    max_encoder_tokens: Annotated[int, typer.Option(help="Tokens encoded between two decoding steps.")] = 1024,
    max_cache_bytes: Annotated[
        int | None,
        typer.Option(
            help="Most bytes of attention caches, a model.", show_default="a quarter of the memory, shared", min=1
        ),
    ] = None,
    max_kept_bytes: Annotated[
        int, typer.Option(help="Bytes of encoded prompts kept for the next request with the same text, a model.")
    ] = 64 * 2**20,
    max_requests: Annotated[
        int, typer.Option(help="Texts held at a time, a model (a client may hold as many as it leaves free); then 429.")
    ] = 2048,
    max_texts: Annotated[int, typer.Option(help="Texts in one request.")] = 512,
    max_body_bytes: Annotated[int, typer.Option(help="Bytes of one request's body.")] = 4 * 2**20,
    timeout: Annotated[float, typer.Option(help="Seconds for a request that names none.")] = 60.0,
    max_timeout: Annotated[float, typer.Option(help="Seconds a request may name.")] = 600.0,
    rate_limit: Annotated[int, typer.Option(help="Requests a minute and client; 0 is no limit.")] = 0,
    api_keys: Annotated[
        Path | None,
        typer.Option(help='File of API keys, "name = key" a line.', show_default="keys of T5KIT_API_KEYS, if set"),
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may call (repeat it).", show_default=False)
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="TLS certificate (PEM).", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).", show_default=False)] = None,
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address whose X-Forwarded-For is believed (repeat it).", show_default=False),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help='Host that requests may ask for beside localhost (repeat it; "*" is any).',
            show_default="--host where only this machine hears it, else any",
        ),
    ] = None,
    drain_delay: Annotated[float, typer.Option(help="Seconds from not-ready to no more connections.", min=0)] = 0.0,
    drain_timeout: Annotated[float, typer.Option(help="Seconds to finish answers when stopped.", min=0)] = 60.0,
    log_level: Annotated[str, typer.Option(help=", ".join(_LEVELS) + ".")] = "info",
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Write the users' texts into the log.")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Show the page at /.")] = True,
) -> None:
    """Serve models over HTTP: answers, streams, scores, vectors, OpenAI's completions and embeddings, and a page.

    Logs are JSON lines on standard error. SIGTERM or Ctrl-C lets what was accepted be answered; a second one does not.
    """
    if log_level not in _LEVELS:
        raise RequestError(f"--log-level {log_level!r} must be one of: {', '.join(_LEVELS)}.")
    sources = model or [os.environ.get("T5KIT_MODEL") or options.DEFAULT_MODEL]
    with interrupts_end_at_once():
        try:
            from t5kit.serving.server import Listening, serve
        except ImportError as error:
            if (error.name or "").split(".")[0] == "t5kit":
                raise
            raise DependencyError.for_extra(error.name or "fastapi", "serve", "t5kit serve") from error
        from t5kit.scheduling import ServiceLimits
        from t5kit.serving.access import read_api_keys
        from t5kit.serving.config import RequestLimits, ServingConfig, default_max_cache_bytes
        from t5kit.serving.logs import set_up_logging
    config = ServingConfig(
        models=_sources(
            sources, adapter or [], engine=engine, weights=weights, threads=threads, device=device, revision=revision,
            offline=offline,
        ),
        limits=RequestLimits(
            max_input_tokens=max_input_tokens, max_new_tokens=max_new_tokens, max_texts=max_texts,
            max_body_bytes=max_body_bytes, max_requests=max_requests, timeout_s=timeout, max_timeout_s=max_timeout,
            requests_per_minute=rate_limit,
        ),
        service=ServiceLimits(
            max_batch_rows=max_batch_rows, max_encoder_tokens=max_encoder_tokens, max_kept_bytes=max_kept_bytes,
            max_cache_bytes=max_cache_bytes or default_max_cache_bytes() // len(sources),
        ),
        api_keys=read_api_keys(api_keys, os.environ.get("T5KIT_API_KEYS")),
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        logs_texts=log_texts,
        is_page_shown=page,
    )  # fmt: skip
    listening = Listening(
        host=host, port=port, tls_certificate=tls_cert, tls_key=tls_key, trusted_proxies=tuple(trust_proxy or ()),
        drain_delay_s=drain_delay, drain_timeout_s=drain_timeout,
    )  # fmt: skip
    set_up_logging(log_level)
    serve(config, listening)


def _sources(
    words: list[str],
    adapters: list[str],
    *,
    engine: str,
    weights: str,
    threads: int | None,
    device: str,
    revision: str | None,
    offline: bool,
) -> "tuple[ModelSource, ...]":
    """Return the models that --model and --adapter name, those of the Hub fetched."""
    from t5kit.checkpoint import resolve
    from t5kit.checkpoint.adapters import is_adapter_folder
    from t5kit.serving.config import ModelSource

    named: dict[str, str] = {}
    for word in words:
        name, separator, target = word.partition("=")
        if not separator:
            name, target = Path(word.rstrip("/")).name, word
        if not name or not target or name in named:
            raise RequestError(f"--model {word!r} must be MODEL or NAME=MODEL, with a name of its own.")
        if is_adapter_folder(Path(target).expanduser()):
            raise RequestError(
                f"--model {word!r} is an adapter's folder, expected a model's. Serve its model and name it beside: "
                f"--model MODEL --adapter {name}={target}. Or merge the two first: t5kit convert {target} NEW_FOLDER."
            )
        named[name] = target
    folders: dict[str, dict[str, Path]] = {name: {} for name in named}
    for word in adapters:
        left, _, target = word.partition("=")
        name, _, owner = left.partition("@")
        if not owner and len(named) == 1:
            owner = next(iter(named))
        if not name or not target or owner not in folders:
            raise RequestError(
                f"--adapter {word!r} must be NAME=FOLDER, or NAME@MODEL=FOLDER with one of: {', '.join(named)}."
            )
        folders[owner][name] = Path(target)
    return tuple(
        ModelSource(
            name=name,
            path=resolve(target, revision=revision, offline=offline or None, cache_dir=None),
            adapters=folders[name],
            engine=engine,  # type: ignore[arg-type]  # checked where it is opened, with the list of what is allowed
            weights=weights,  # type: ignore[arg-type]
            threads=threads,
            device=device,
        )
        for name, target in named.items()
    )
