"""What the hostile registry can do wrong, by when it does it."""

from __future__ import annotations

BLOB_FAULTS = (
    "wrong-bytes",
    "flipped-bit",
    "short-body",
    "short-length",
    "long-length",
    "endless-body",
    "slow-body",
    "packed-body",
    "reset",
    "redirect-strange",
    "redirect-loop",
    "redirect-http",
    "redirect-file",
    "redirect-nowhere",
    "range-ignored",
    "range-lying",
    "missing-blob",
)
"""When a blob is asked for."""
DOCUMENT_FAULTS = (
    "wrong-digest",
    "digest-header-lies",
    "huge-manifest",
    "endless-manifest",
    "deep-manifest",
    "twice-manifest",
    "no-json-manifest",
    "climbing-titles",
    "seven-disks",
    "short-manifest",
    "slow-manifest",
    "redirect-manifest",
    "tag-flips",
)
"""When a manifest or index is asked for. "wrong-digest": a digest gives another document than its own;
"tag-flips": a tag gives its own document first, and another each second time."""
ANSWER_FAULTS = (
    "401-loop",
    "401-foreign-realm",
    "401-plain-realm",
    "401-two-realms",
    "401-long",
    "403",
    "429",
    "503",
    "500",
    "hang",
    "no-http",
    "endless-headers",
    "dribbling-head",
    "trickle",
)
"""When anything is asked for. Of "429" and "503", `times` says how often before it gets better."""
LIST_FAULTS = ("link-strange", "link-endless", "link-huge", "tags-terminal")
"""When tags or the catalog are asked for."""
PUSH_FAULTS = (
    "upload-reset",
    "upload-500",
    "upload-lost",
    "upload-flipped",
    "upload-strange",
    "manifest-lost",
    "manifest-doubted",
)
"""When something is pushed. "upload-strange": the place to send the bytes to is the stranger's;
"manifest-doubted": its digest is said to be another, as docker-registry does while another writes what it names."""
FAULTS = (*BLOB_FAULTS, *DOCUMENT_FAULTS, *ANSWER_FAULTS, *LIST_FAULTS, *PUSH_FAULTS)
