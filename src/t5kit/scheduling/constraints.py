"""Constraints made on a thread while others are being answered: translating a large grammar takes half a second."""

import collections
import concurrent.futures

from t5kit.decoding import Constraint, ConstraintFactory, Grammar


class ConstraintsAhead:
    """Makes the constraint of a request's grammar before the request takes part in steps.

    Itself the ConstraintFactory of whatever takes those steps: what was made is handed out, or what went wrong is
    raised, where the request is admitted. Speed: llguidance translates without the interpreter's lock, so decoding goes
    on meanwhile. One thread: many grammars at once wait for each other, not the answers alive for them.
    """

    def __init__(self, factory: ConstraintFactory) -> None:
        self._factory = factory
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._made: dict[Grammar, concurrent.futures.Future[Constraint]] = {}
        self._grammar_of: dict[int, Grammar] = {}
        """Request -> its grammar, until it is done."""
        self._num_users: collections.Counter[Grammar] = collections.Counter()

    def __call__(self, grammar: Grammar) -> Constraint:
        """Return the constraint of a grammar that was begun. Raises: what the factory raised."""
        return self._made[grammar].result()

    def begin(self, request_id: int, grammar: Grammar) -> None:
        """Have the constraint made, if no other request has it."""
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="constraints")
        if grammar not in self._made:
            self._made[grammar] = self._thread.submit(self._factory, grammar)
        self._grammar_of[request_id] = grammar
        self._num_users[grammar] += 1

    def is_made(self, request_id: int) -> bool:
        """Return whether a request's constraint is there, or has failed."""
        return self._made[self._grammar_of[request_id]].done()

    def wait(self, timeout_s: float) -> None:
        """Wait until one more constraint is made, or so long."""
        pending = [future for future in self._made.values() if not future.done()]
        concurrent.futures.wait(pending, timeout_s, concurrent.futures.FIRST_COMPLETED)

    def forget(self, request_id: int) -> None:
        """A request is done; the constraint goes with its last one."""
        grammar = self._grammar_of.pop(request_id, None)
        if grammar is None:
            return
        self._num_users[grammar] -= 1
        if not self._num_users[grammar]:
            del self._num_users[grammar]
            self._made.pop(grammar).cancel()

    def close(self) -> None:
        """Begin no more; the one that is being made is not waited for."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
