"""How a run ends: finished, paused until somebody or something else moves it on, stopped, or without its disk."""

from __future__ import annotations

from sage_actors.messages.records import RunFinished, RunPaused
from sage_actors.supervisor.core.run_waits import TOO_LONG, RunWaits

__all__ = ["AND", "RunEnding"]

AND = "; and "  # between the causes of one pause, each `kind: nodes; what to do`


class RunEnding(RunWaits):
    """The part of a run's decisions about its end. `RunCore` is the whole."""

    def stop(self, reason: str, *, cancelled: bool = False) -> None:
        """No further dispatch; the run ends as paused (or cancelled) when what runs has ended."""
        if self.stopping is None or cancelled:
            self.stopping = reason
            self.cancelled = self.cancelled or cancelled
        self.settle()

    def _look_for_the_end(self) -> None:
        if self._ending or self.status is not None:
            return
        if self.storage_error is not None:
            if self._executing() == 0:
                self._ending = True
                self._return_permits()
                self.status = "paused"
                self.paused = f"storage: {self.storage_error}"
                self.emit("run_paused", None, reason=self.paused)
                self.ports.ended(self)
            return
        if self.running or self.unacknowledged:
            return
        if self.stopping is not None:
            self._finish_stopped()
        elif self.open == 0:
            failed = self.failed - self.excused_failures
            self._finish("failed" if failed else "succeeded")
        elif not any(self.ready) and not any(self.solo) and not self.todo:
            self._consider_pause()

    def _executing(self) -> int:
        return sum(self.workers_busy.values())

    def _finish_stopped(self) -> None:
        if self.cancelled:
            self._finish("cancelled")
        elif self.timed_out and self.doubts:
            self._pause(f"in doubt: {self._doubtful_ids()}; {self.stopping}")
        elif self.timed_out:
            self._finish("failed")
        else:
            reason = str(self.stopping)
            self._pause(AND.join([reason, *(self._questions() if reason.startswith("budget") else ())]))

    def _consider_pause(self) -> None:
        """Nothing runs and nothing is ready: pause unless a clock or a breaker will bring more."""
        waits = set(self.held.values())
        if waits & {"retry", "wait", TOO_LONG, "breaker", "cache"}:
            return
        causes = []
        if "open breaker" in waits:
            far = all(node in self.too_far for node, why in self.held.items() if why == "open breaker")
            if not far or not waits <= {"open breaker", "approval"}:
                return
            causes.append("open breaker: an endpoint that is needed stays open")
        if self.doubts:
            causes.append(f"in doubt: {self._doubtful_ids()}; say what happened with `sage-actors resolve`")
        if self.paused is not None:
            causes.append(self.paused)
        if "budget" in waits:
            causes.append(self._why_over_budget())
        if causes or not self.options.waits_for_people:
            causes += self._questions()
        if causes:
            self._pause(AND.join(causes))

    def _questions(self) -> list[str]:
        """The approvals that wait, as one cause of a pause; none if there are none."""
        ids = ", ".join(sorted(self.id_of(node) for node, why in self.held.items() if why == "approval"))
        return [f"approval: {ids}; answer with `sage-actors approve`"] if ids else []

    def _doubtful_ids(self) -> str:
        return ", ".join(sorted(self.id_of(node) for node in self.doubts))

    def _return_permits(self) -> None:
        """What was granted and will not be used."""
        for node in list(self.permits):
            self._return_permit(node, None, None)

    def _pause(self, reason: str) -> None:
        self._ending = True
        self._return_permits()
        self.paused = reason
        self.emit("run_paused", None, reason=reason)
        self._persist([RunPaused(self.clock.now(), reason)], sync=True, token=("end", "paused"))

    def _finish(self, status: str) -> None:
        self._ending = True
        self._return_permits()
        seconds = self.clock.now() - self.started_at
        record = RunFinished(self.clock.now(), status, seconds, dict(self.counts), self.reason(status))
        self._persist([record], sync=True, token=("end", status))
