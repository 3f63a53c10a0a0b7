"""What a server counts, in the words of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from t5kit.scheduling import ServiceCounts, Timings

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServerMetrics:
    """Counters of one server, apart from those of any other."""

    def __init__(self) -> None:
        self._collectors = CollectorRegistry()
        # The empty texts: Prometheus' namespace, subsystem and unit, which stand in the names here.
        beside = ("", "", "", self._collectors)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"t5kit_{name}", text, labels, *beside)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"t5kit_{name}", text, labels, *beside)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"t5kit_{name}_seconds", text, labels, *beside, buckets=_SECONDS)

        self.http_requests = counter("http_requests", "HTTP requests answered.", "route", "status")
        self.http_seconds = seconds("http_request", "HTTP request to the end of its response.", "route")
        self.disconnects = counter("http_disconnects", "Clients that left before their answer was complete.")
        self.refusals = counter("refusals", "Requests refused: full, rate, unready, key, host, size.", "reason")
        self.errors = counter("errors", "Texts that failed in the engine, by class of error.", "model", "error")
        self.input_tokens = counter("input_tokens", "Tokens of the prompts of finished answers.", "model")
        self.generated_tokens = counter("generated_tokens", "Tokens generated.", "model")
        self.queue_seconds = seconds("queue", "A text's wait for its encoder run.", "model")
        self.first_token_seconds = seconds("first_token", "A text's way to its first token.", "model")
        self.answer_seconds = seconds("answer", "A text's way to its whole answer.", "model")
        self.queue_length = gauge("queue_length", "Texts that wait for their turn.", "model")
        self.running = gauge("running", "Texts that are being answered.", "model")
        self.batch_rows = gauge("batch_rows", "Rows (beams, samples) fed by one decoding step.", "model")
        self.cache_bytes = gauge("cache_bytes", "Bytes of attention caches taken or promised.", "model")
        self.steps = counter("decoding_steps", "Decoding steps.", "model")
        self.stepped_rows = counter("decoded_rows", "Rows fed, summed over steps.", "model")
        self.encoded_prompts = counter("encoded_prompts", "Encoder runs of prompts.", "model")
        self.prompt_cache_hits = counter("prompt_cache_hits", "Prompts found encoded already.", "model")
        self.expired = counter("expired", "Texts that ran into their deadline.", "model")
        self.engine_restarts = counter("engine_restarts", "Engine processes started again.", "model")

    def take_counts(self, model: str, now: ServiceCounts, before: ServiceCounts | None) -> None:
        """Take an engine's word; `before` is its previous one, None for a new process."""
        scheduler, old = now.scheduler, None if before is None else before.scheduler
        self.queue_length.labels(model).set(now.num_queued + scheduler.num_waiting)
        self.running.labels(model).set(scheduler.num_alive)
        self.batch_rows.labels(model).set(scheduler.num_rows)
        self.cache_bytes.labels(model).set(scheduler.cache_bytes)
        self.steps.labels(model).inc(scheduler.num_steps - (old.num_steps if old else 0))
        self.stepped_rows.labels(model).inc(scheduler.num_stepped_rows - (old.num_stepped_rows if old else 0))
        self.encoded_prompts.labels(model).inc(scheduler.num_encoded_prompts - (old.num_encoded_prompts if old else 0))
        self.prompt_cache_hits.labels(model).inc(scheduler.num_shared_prompts - (old.num_shared_prompts if old else 0))
        self.generated_tokens.labels(model).inc(
            now.num_generated_tokens - (before.num_generated_tokens if before else 0)
        )
        self.expired.labels(model).inc(now.num_expired - (before.num_expired if before else 0))

    def take_answer(self, model: str, timings: Timings, num_input_tokens: int) -> None:
        """Take a finished answer."""
        self.input_tokens.labels(model).inc(num_input_tokens)
        self.queue_seconds.labels(model).observe(timings.queued_s)
        self.first_token_seconds.labels(model).observe(timings.first_token_s)
        self.answer_seconds.labels(model).observe(timings.total_s)

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self._collectors)
