"""What every show needs: a client that never rests, and words for what was seen."""

import threading
import time

from harness.load import ask
from harness.waiting import NotSeen

# A switch takes a second at most, but this machine may be busy; past this something is wrong.
STEP_DEADLINE = 60


class Client(threading.Thread):
    """Asks the service again and again, each time on a new connection, and notes who answered and when."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service = service
        self.answers = []  # (when it was asked, when it was answered, by whom or why not)
        self.between_requests = threading.Lock()
        self._stopping = False
        self.start()

    def run(self):
        while not self._stopping:
            with self.between_requests:
                asked = time.monotonic()
                try:
                    who = ask(self.service, STEP_DEADLINE)
                except (OSError, ValueError) as error:
                    who = f"nobody: {error}"
                self.answers.append((asked, time.monotonic(), who))
            time.sleep(0.003)

    def stop(self):
        self._stopping = True
        self.join(STEP_DEADLINE)

    def first_answer(self, name, since):
        """When a request sent after this moment was answered by that server for the first time."""
        until = time.monotonic() + STEP_DEADLINE
        seen = 0
        while time.monotonic() < until:
            for asked, answered, who in self.answers[seen:]:
                seen += 1
                if asked >= since and who == name:
                    return answered
            time.sleep(0.001)
        raise NotSeen(f"the {name} did not answer within {STEP_DEADLINE} s")

    def summary(self):
        names = [who for _, _, who in self.answers]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def report(self, known):
        """Says how many requests there were and who answered; a request that none of these answered is an error."""
        counts = self.summary()
        failed = sum(count for name, count in counts.items() if name not in known)
        answered = ", ".join(f"{counts.get(name, 0)} by the {text}" for name, text in known.items())
        longest = max(done - asked for asked, done, _ in self.answers)
        print(f"\n{len(self.answers)} requests: {answered}, {failed} failed. The longest took {longest:.2f} s.")
        if failed:
            raise NotSeen("\n     ".join(self.failures(known)))

    def failures(self, known):
        """A line for each request that none of these answered: which one it was, how long it took, who answered around it."""
        names = ["nobody yet"] + [who for _, _, who in self.answers] + ["nobody any more"]
        for number, (asked, done, who) in enumerate(self.answers, 1):
            if who not in known:
                before, after = names[number - 1], names[number + 1]
                yield f"request {number} after {done - asked:.3f} s, between {before} and {after}: {who}"


def step(number, text):
    print(f"\n{number}. {text}", flush=True)


def command(text):
    print(f"   $ {text}", flush=True)


def seen(text, detail=""):
    print(f"   ✓ {text:<48}{detail}".rstrip(), flush=True)
