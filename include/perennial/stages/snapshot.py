"""Freezes the landed data: an immutable manifest of content-addressed files, or word that there is nothing new.

Rows count if their time lies at or before the request's `as_of`; a file that passes it is taken whole, and the windows
cut its later rows off. The manifest holds the files that overlap the windows, nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from perennial.domain.fingerprint import training_fingerprint
from perennial.domain.ledger_entry import LedgerEntry
from perennial.domain.manifest import PENDING, Manifest, ManifestFile
from perennial.domain.references import SnapshotRef
from perennial.domain.run_request import RunRequest, training_params
from perennial.domain.snapshot_plan import LandedFile, SnapshotPlan, plan_snapshot, straddling
from perennial.domain.times import format_time
from perennial.errors import RequestError
from perennial.ledger import Ledger
from perennial.ports import Clock, ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.frames import newest_time
from perennial.stages.landed_files import LandedFiles, object_uri
from perennial.stages.landing import looking_at

_log = logging.getLogger(__name__)
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""Clocks of two machines differ a little."""


def take_snapshot(
    spec: ModelSpec,
    request: RunRequest,
    *,
    store: ObjectStore,
    root: str,
    ledger: Ledger,
    registry: ModelRegistry,
    clock: Clock,
    code_version: str,
    policy: str,
) -> SnapshotRef:
    """Freeze the data of a run. The manifest is written before this returns.

    If an earlier run judged exactly this training (data, windows, parameters, code) by this policy (evaluation, gate,
    suite), that is recorded as `nothing_new`, and the reference names the entry. Not so if files were refused and the
    spec wants to hear of it: validate tells; nor if the request forces a run.

    Raises:
        NoDataError: no usable rows in the training window or in the holdout.
        NotFoundError: no such bucket.
        RequestError: parameter overrides that the spec does not allow, or a time in the future.
        StoreUnavailableError: the store does not answer.
    """
    params = training_params(spec, request)
    if request.as_of > clock.now() + CLOCK_TOLERANCE:
        raise RequestError(
            f"as_of {format_time(request.as_of)} lies in the future (now is {format_time(clock.now())}): labels that "
            f"are still to come would count as known. Choose a time that has passed, or leave it empty"
        )
    landed: LandedFiles | None = None

    def sees_all() -> bool:
        return landed is not None and all(f.last_row is None or f.last_row <= request.as_of for f in landed.readable)

    with looking_at(store, root=root, model=spec.name, landing=spec.data.landing, sees_all=sees_all):
        landed = LandedFiles(spec, store=store, root=root, run_id=request.run_id, now=clock.now())
        return _freeze(
            spec,
            request,
            landed,
            params=params,
            store=store,
            root=root,
            ledger=ledger,
            registry=registry,
            clock=clock,
            code_version=code_version,
            policy=policy,
        )


def _freeze(
    spec: ModelSpec,
    request: RunRequest,
    landed: LandedFiles,
    *,
    params: Mapping[str, Any],
    store: ObjectStore,
    root: str,
    ledger: Ledger,
    registry: ModelRegistry,
    clock: Clock,
    code_version: str,
    policy: str,
) -> SnapshotRef:
    plan = _plan(landed, spec, request, store=store, root=root)
    manifest = _manifest(spec, plan, root)
    fingerprint = training_fingerprint(
        spec, snapshot_sha256=manifest.data_sha256, params=params, code_version=code_version
    )
    earlier = _judged_before(spec, request, manifest, ledger, fingerprint, policy)
    if earlier is None and landed.forget_lost_copies(plan.files):
        plan = _plan(landed, spec, request, store=store, root=root)
        manifest = _manifest(spec, plan, root)
    uri = _publish(spec, manifest, store=store, root=root)
    _tell(spec, request, manifest)
    ref = SnapshotRef(
        uri=uri,
        sha256=manifest.sha256,
        data_sha256=manifest.data_sha256,
        rows=manifest.rows,
        files=len(manifest.files),
        watermark=manifest.watermark,
        pending_files=sum(file.why in PENDING for file in manifest.unusable),
        refused_files=len(manifest.refused),
        nothing_new_since=None if earlier is None else earlier.entry_id,
    )
    if earlier is not None:
        _record_nothing_new(request, ref, earlier, ledger=ledger, registry=registry, clock=clock)
    return ref


def _plan(landed: LandedFiles, spec: ModelSpec, request: RunRequest, *, store: ObjectStore, root: str) -> SnapshotPlan:
    """Copy until the plan names only files that were copied. A copy can change it, if the file was replaced."""
    while True:
        passing = straddling(spec, request.as_of, landed.readable)
        if landed.forget_lost_copies(passing):
            continue
        uncopied = [file for file in passing if file.sha256 is None]
        if not uncopied:
            newest = {
                file.key: newest_time(
                    store,
                    object_uri(root, str(file.sha256)),
                    file.size_bytes,
                    time_column=spec.data.time_column,
                    until=request.as_of,
                )
                for file in passing
            }
            plan = plan_snapshot(spec, request.as_of, landed.readable, landed.unusable, newest)
            uncopied = [file for file in plan.files if file.sha256 is None]
            if not uncopied:
                return plan
        landed.copy(uncopied)


def _manifest(spec: ModelSpec, plan: SnapshotPlan, root: str) -> Manifest:
    return Manifest(
        model=spec.name,
        landing=spec.data.landing,
        watermark=plan.watermark,
        windows=plan.windows,
        schema=plan.schema,
        files=tuple(_manifest_file(file, root) for file in plan.files),
        unusable=plan.unusable,
    )


def _manifest_file(file: LandedFile, root: str) -> ManifestFile:
    first, last = file.span
    sha256 = str(file.sha256)
    return ManifestFile(
        key=file.key,
        object_uri=object_uri(root, sha256),
        sha256=sha256,
        size_bytes=file.size_bytes,
        rows=file.rows,
        first_row=first,
        last_row=last,
    )


def _publish(spec: ModelSpec, manifest: Manifest, *, store: ObjectStore, root: str) -> str:
    uri = f"{root}/snapshots/{spec.name}/{manifest.sha256}.json"
    content = manifest.to_bytes()
    written = store.write(uri, content, content_type="application/json", if_absent=True)
    if not written and store.read(uri) != content:
        # Its name is its digest, so what is there is damaged: a put that broke off on a store without atomic puts.
        store.write(uri, content, content_type="application/json")
    return uri


def _judged_before(
    spec: ModelSpec, request: RunRequest, manifest: Manifest, ledger: Ledger, fingerprint: str, policy: str
) -> LedgerEntry | None:
    # Files that were refused have to be told by validate, if the spec wants to hear of them.
    # Who breaks the glass wants a promotion, also of what was judged before.
    if request.force or request.break_glass or (manifest.refused and spec.data.on_refused_file == "fail"):
        return None
    earlier = ledger.judged(spec.name, fingerprint, policy)
    # A run whose stages are repeated finds its own decision; that is no reason to stop it.
    return None if earlier is None or earlier.run_id == request.run_id else earlier


def _record_nothing_new(
    request: RunRequest,
    ref: SnapshotRef,
    earlier: LedgerEntry,
    *,
    ledger: Ledger,
    registry: ModelRegistry,
    clock: Clock,
) -> None:
    # Asked anew: since that entry, another run may have promoted something else.
    version = registry.champion_version(request.model)
    summary = (
        f"Nothing new: data up to {format_time(ref.watermark)}, parameters and code are those that entry "
        f"{earlier.entry_id} of {format_time(earlier.recorded_at)} judged ({earlier.verdict})."
    )
    entry = LedgerEntry(
        kind="nothing_new",
        model=request.model,
        recorded_at=clock.now(),
        request=request.to_dict(),
        evidence_sha256=ref.sha256,
        summary=summary,
        champion_before=version,
        champion_after=version,
        fingerprint=earlier.fingerprint,
        policy=earlier.policy,
        page_uri=earlier.page_uri,
        references={"snapshot": ref.to_dict()},
    )
    ledger.append(entry)
    _log.info("%s %s snapshot: %s", request.model, request.run_id, summary)


def _tell(spec: ModelSpec, request: RunRequest, manifest: Manifest) -> None:
    _log.info(
        "%s %s snapshot: %s, %d rows in %d files, watermark %s, training %s, holdout %s",
        spec.name,
        request.run_id,
        manifest.sha256[:12],
        manifest.rows,
        len(manifest.files),
        format_time(manifest.watermark),
        manifest.windows.training,
        manifest.windows.holdout,
    )
    first = min(file.first_row for file in manifest.files)
    if first > manifest.windows.training.start + spec.data.windows.training / 10:
        _log.warning(
            "%s %s snapshot: data begins at %s, the training window at %s; the model learns from less than asked for",
            spec.name,
            request.run_id,
            format_time(first),
            format_time(manifest.windows.training.start),
        )
    for file in manifest.unusable:
        _log.warning("%s %s snapshot: left out %s: %s, %s", spec.name, request.run_id, file.key, file.why, file.detail)
