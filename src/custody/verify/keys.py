"""Whose signatures count, and whether every checkpoint and anchor has one.

Owns the comparison of the keys on the record with the key files, the order in which keys follow each other,
and what a signature of none of them means. With a key given by the reader only that one counts. Used by
`verify`.
"""

from contextlib import suppress

from custody.errors import CustodyError
from custody.journal.checkpoint import Note, Signer, Verifier, parse_verifiers
from custody.journal.disk import Disk
from custody.verify.findings import Findings
from custody.verify.gather import Gather
from custody.verify.log import LOG, Anchor, LogCheck

PRIVATE = "keys/checkpoint.key"
PUBLIC = "keys/checkpoint.pub"


class KeyCheck:
    """The keys of a store, and what they signed."""

    def __init__(self, disk: Disk, findings: Findings, given: list[Verifier] | None) -> None:
        self._disk = disk
        self._findings = findings
        self._given = given
        self.is_given = given is not None
        self.accepted: list[Verifier] = []
        """The keys that count, in the order in which they follow each other."""
        self.signed_to = 0
        """The last checkpoint of the log that a key that counts has signed: it covers all before it."""
        self.signer_of: list[tuple[int, str]] = []
        """Number of a checkpoint and id of the key that signed it, where the key changes."""

    def check(self, gather: Gather, log: LogCheck, *, quiet: bool, incomplete: bool) -> None:
        """`quiet`: a writer is at work, so a key and its first checkpoint may be under way. `incomplete`:
        not all records could be read, so that the public keys have to be taken as the file has them."""
        on_record = self._on_record(gather)
        if incomplete:
            with suppress(OSError, CustodyError, UnicodeDecodeError):
                on_record = parse_verifiers((self._disk.read_all(PUBLIC) or b"").decode())
        self._check_public(on_record, log, quiet=quiet)
        self._check_private(on_record, quiet=quiet)
        self.accepted = self._given if self._given is not None else on_record
        if on_record and not log.notes and not quiet:
            self._findings.fault("a key is on the record, and there is no checkpoint", file=LOG)
        self._check_notes(log)
        signed = {key_id for _, key_id in self.signer_of}
        newest = on_record[-1] if on_record and log.notes and not quiet and self._given is None else None
        if newest is not None and newest.key_id not in signed and not self._is_new(newest):
            self._findings.fault(f"key {newest.key_id} has signed no checkpoint", file=LOG)

    def _is_new(self, key: Verifier) -> bool:
        """Whether it is not among the public ones yet: it is put there before it signs."""
        try:
            return key.line.encode() not in (self._disk.read_all(PUBLIC) or b"")
        except OSError:
            return True

    def _on_record(self, gather: Gather) -> list[Verifier]:
        found: list[Verifier] = []
        for created, shard, sequence in sorted(gather.keys, key=lambda key: key[0].replaces is not None):
            try:
                key = Verifier.parse(created.key)
            except CustodyError as error:
                what = f"the key on the record is none: {error.message}"
                self._findings.fault(what, shard=shard, sequence=sequence)
                continue
            if key not in found:
                found.append(key)
        follows = {created.key: created.replaces for created, _, _ in gather.keys}
        return _in_order(found, follows)

    def _check_public(self, on_record: list[Verifier], log: LogCheck, *, quiet: bool) -> None:
        try:
            data = self._disk.read_all(PUBLIC)
        except OSError as error:
            self._findings.problem(f"cannot be read: {error.strerror or error}", file=PUBLIC)
            return
        if data is None:
            if on_record:
                self._findings.problem("the store's public keys are missing", file=PUBLIC)
            elif log.notes and not quiet:
                self._findings.fault("there are checkpoints, and no key is on the record", file=LOG)
            return
        try:
            public = parse_verifiers(data.decode())
            spelled = "".join(f"{key.line}\n" for key in public).encode() == data
        except (CustodyError, UnicodeDecodeError):
            public, spelled = [], False
        if not spelled:
            self._findings.fault("the public keys are not readable", file=PUBLIC, offset=0)
            return
        for key in public:
            if key not in on_record and not quiet:
                self._findings.fault(f"key {key.key_id} is not on the record", file=PUBLIC)
        for key in on_record[:-1]:
            if key not in public:
                self._findings.fault(f"key {key.key_id} is on the record and missing here", file=PUBLIC)
        if on_record and on_record[-1] not in public:
            self._findings.note(f"key {on_record[-1].key_id} is new and not yet here", file=PUBLIC)

    def _check_private(self, on_record: list[Verifier], *, quiet: bool) -> None:
        try:
            data = self._disk.read_all(PRIVATE)
        except OSError:
            self._findings.note("the private key was not looked at: it cannot be read", file=PRIVATE)
            return
        if data is None:
            if on_record:
                self._findings.note("the private key is not here; this copy cannot sign", file=PRIVATE)
            return
        try:
            signers = [Signer.parse(line) for line in data.decode().splitlines()]
            spelled = "".join(f"{signer.line}\n" for signer in signers).encode() == data
        except (CustodyError, UnicodeDecodeError):
            signers, spelled = [], False
        if not spelled:
            self._findings.fault("the private key is not readable", file=PRIVATE, offset=0)
        for signer in signers[1:] if len(signers) > 1 else signers:
            known = signer.verifier in on_record or quiet
            if not known and not self._is_new(signer.verifier):
                what = f"the private key {signer.verifier.key_id} is not on the record"
                self._findings.fault(what, file=PRIVATE, offset=0)

    # -- signatures ---------------------------------------------------------------------------------------

    def _signer(self, note: Note) -> tuple[int, str]:
        """The newest accepted key with a good signature on the note, and what is wrong with the others."""
        good, names = -1, {(key.name, key.key_hash): at for at, key in enumerate(self.accepted)}
        for signature in note.signatures:
            at = names.get((signature.name, signature.key_hash))
            if at is None:
                continue
            if not self.accepted[at].verify(note.text, signature.signature):
                return -1, f"the signature of key {self.accepted[at].key_id} is not good"
            good = max(good, at)
        if good >= 0:
            return good, ""
        hashes = ", ".join(signature.key_hash.hex() for signature in note.signatures)
        which = "given" if self._given is not None else "on the record"
        return -1, f"it is signed by {hashes}, which is no key that is {which}"

    def _check_notes(self, log: LogCheck) -> None:
        newest, unsigned = -1, list[tuple[int, int, str]]()
        for offset, note in log.notes:
            number = note.checkpoint.size
            at, wrong = self._signer(note)
            if at < 0:
                unsigned.append((number, offset, wrong))
                continue
            if at < newest:
                what = f"checkpoint {number} is signed by a key that had been replaced before"
                self._findings.fault(what, file=LOG, offset=offset)
                continue
            if self._given is None and len(note.signatures) > self._known(note):
                what = f"checkpoint {number} has a signature of a key that is not on the record"
                self._findings.fault(what, file=LOG, offset=offset)
            if at != newest:
                self.signer_of.append((number, self.accepted[at].key_id))
            newest, self.signed_to = at, number
        for number, offset, wrong in unsigned:
            if self._given is not None and number < self.signed_to and "no key" in wrong:
                continue  # the given key's later checkpoints commit to it
            self._findings.fault(f"checkpoint {number}: {wrong}", file=LOG, offset=offset)

    def _known(self, note: Note) -> int:
        """How many of its signatures are of accepted keys."""
        names = {(key.name, key.key_hash) for key in self.accepted}
        return sum((signature.name, signature.key_hash) in names for signature in note.signatures)

    def signer_at(self, number: int) -> str | None:
        """Id of the key of the first checkpoint from that one on that counts."""
        found: str | None = None
        for first, key_id in self.signer_of:
            if first <= number or found is None:
                found = key_id
        return found

    def check_anchors(self, anchors: list[Anchor], log: LogCheck) -> list[Anchor]:
        """The anchors that count: signed, and part of the log."""
        good: list[Anchor] = []
        for anchor in anchors:
            checkpoint = anchor.note.checkpoint
            _, wrong = self._signer(anchor.note)
            if wrong:
                self._findings.fault(f"the anchor: {wrong}", file=anchor.name, offset=anchor.offset)
            elif checkpoint.size > log.size:
                what = f"the anchor is checkpoint {checkpoint.size}, and the log has only {log.size}"
                self._findings.fault(what, file=anchor.name, offset=anchor.offset)
            elif log.roots.get(checkpoint.size) != checkpoint.root:
                what = f"checkpoint {checkpoint.size} of the log is not the one that was kept elsewhere"
                self._findings.fault(what, file=anchor.name, offset=anchor.offset)
            else:
                good.append(anchor)
        return good


def _in_order(keys: list[Verifier], follows: dict[str, str | None]) -> list[Verifier]:
    """Each key behind the one it replaces, as far as that can be told."""
    ordered: list[Verifier] = []
    rest = list(keys)
    while rest:
        ids = {key.key_id for key in ordered}
        ready = [key for key in rest if follows[key.line] is None or follows[key.line] in ids]
        ordered.append(ready[0] if ready else rest[0])
        rest.remove(ordered[-1])
    return ordered
