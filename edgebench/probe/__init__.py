"""The probe: what runs on a device. Python 3.6 syntax and library, the standard library only.

It travels as one zip file whose root holds this package as `edgebench_probe/` and a `__main__.py` of two
lines (`from edgebench_probe.__main__ import main`, `main()`). It writes below `--work` only; the rest of
edgebench never imports it. Its protocol is docs/probe-protocol.md.

    __main__    which program: `session` or `launch`
    session     the request loop: lease, silence watchdog, end
    child       starts a launch process, reads its messages, kills it, explains its death
    launch      one launch in a fresh process: import, load, first inference, warm-up, samples
    store       uploads, artifacts and bundles below the work folder
    specs       the spec of a launch, checked
    engines     what the device built (TensorRT), kept by all that it depends on
    trtexec exports program     trtexec: where it is, its log, its JSON files, one run of it
    npy cuda    arrays without numpy; CUDA's runtime library through ctypes
    lease runs  who holds the device; the folder of everything that passes
    facts       what the device is
    conditions  the state it is in; `power`: throttle evidence; `foreign`: what other processes use
    macos       facts and conditions of a Mac
    wire check tree clock memory    messages, request checks, reading /proc and /sys, time, memory
    runtimes/   one file per runtime
"""
