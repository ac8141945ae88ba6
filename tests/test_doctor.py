"""The doctor on machines that are not here, as file trees, commands and answers; and once on this one."""

from __future__ import annotations

import json
import struct
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from crafted import craft, parts_of
from fake_cuda import FakeCuda
from test_golden import GOLDEN

from vlf_edge import Plan, backends
from vlf_edge.backends import cuda
from vlf_edge.backends.table import NAMES
from vlf_edge.cli import main
from vlf_edge.doctor import Finding, Machine, examine, plan_fails, to_json, to_text, write_bundle
from vlf_edge.doctor import machine as machine_module
from vlf_edge.doctor.bundle import Recorder, without_secrets
from vlf_edge.doctor.finding import MARKS
from vlf_edge.doctor.machine import Python, ask_child, run_command
from vlf_edge.doctor.questions import QUESTIONS, answer_to
from vlf_edge.doctor.table import TABLE, Check
from vlf_edge.doctor.v4l2 import describe

ORIN = {
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
    "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64\n",
    "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
    "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd42\n",
    "/proc/meminfo": "MemTotal:        7802520 kB\nMemAvailable:    5102520 kB\nSwapTotal:       3901248 kB\n",
}
JETPACK = {
    ("nvpmodel", "-q"): "NV Power Mode: MAXN_SUPER\n2\n",
    ("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack"): "6.1+b123",
    ("jetson_clocks", "--show"): "CPU Cluster\nGPU MinFreq=1020000000 MaxFreq=1020000000 CurrentFreq=1020000000\n",
}
PC = {
    "/proc/cpuinfo": "model name\t: Some CPU\nflags\t: avx2 avx_vnni\n",
    "/proc/meminfo": "MemTotal:  32802520 kB\nMemAvailable:  25102520 kB\nSwapTotal:  0 kB\n",
}
RTX = {
    "/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
}
SMI = ("nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader")
NOT_INSTALLED = {"error": "tensorrt is not installed", "remedy": "install it with: pip install tensorrt"}
WELL = {
    ("numpy",): {"version": "1.26.4"},
    ("opencv",): {"version": "4.10.0", "file": "cv2.so", "gstreamer": True, "ffmpeg": True},
    ("pyav",): {"version": "14.0"},
    ("driver",): {"cuda": "12.6", "init": 0},
    ("bindings",): {"version": "12.8.0"},
    ("gpu",): {
        "name": "Orin", "compute_capability": "8.7", "memory_bytes": 8 << 30, "integrated": True, "multiprocessors": 8,
    },
    ("targets",): {"rtx": "tensorrt_rtx is not installed; pip install it", "tensorrt": ""},
    **{("library", name): {"version": "10.3.0", "file": f"{name}.py"} for name in NAMES},
}  # fmt: skip


@pytest.fixture
def machine_of(tmp_path, monkeypatch):
    """A function: a machine of these files, commands and answers; whatever else it is asked is an error."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3})

    def made(files=None, commands=None, answers=None, **known) -> Machine:
        root = tmp_path / "root"
        for path, text in (files or {}).items():
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        root.mkdir(exist_ok=True)
        answers = {**WELL, **(answers or {})}
        monkeypatch.setattr(backends, "installed", lambda name: "error" not in answers["library", name])
        known = {"python": Python("3.10.12", "python", "/usr", "/usr"), "groups": frozenset({"video"})} | known
        return Machine(
            root=root,
            run=lambda *words, limit_s=0.0: (commands or {}).get(words),
            ask=lambda *words, limit_s=0.0: answers[words],
            **{"is_root": True, **known},
        )

    return made


def found_on(machine: Machine) -> dict[str, Finding]:
    return {finding.name: finding for found in examine(machine).values() for finding in found}


def marks_of(found: dict[str, Finding], mark: str) -> set[str]:
    return {name for name, finding in found.items() if finding.mark == mark}


def test_a_jetson_on_which_all_is_well(machine_of):
    found = found_on(machine_of(ORIN, JETPACK))
    assert marks_of(found, "bad") == marks_of(found, "warn") == set()
    assert marks_of(found, "absent") == {"cameras", "target rtx"}
    for name, text in {
        "board": "NVIDIA Jetson Orin Nano", "JetPack": "6.1+b123; L4T 36.4.0", "power mode": "MAXN_SUPER (number 2)",
        "clocks": "GPU fixed at 1020 MHz", "compute capability": "8.7: tensorrt", "swap": "3809 MiB",
        "system packages": "is for Python 3.10, and is seen here", "driver": "part of JetPack",
        "GPU": "Orin, 8 multiprocessors, 8.0 GiB, shared with the CPU", "int8 on the CPU": "exact",
    }.items():  # fmt: skip
        assert text in found[name].found, name


def test_a_virtual_environment_that_hides_jetpack(machine_of):
    files = ORIN | {"/home/me/.venv/pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = false\n"}
    python = Python("3.10.12", "python", "/home/me/.venv", "/usr")
    machine = machine_of(files, JETPACK, {("library", "tensorrt"): NOT_INSTALLED}, python=python)
    found = found_on(machine)
    assert marks_of(found, "bad") == {"system packages", "tensorrt"}
    assert "the virtual environment /home/me/.venv hides it" in found["system packages"].found
    for name in ("system packages", "tensorrt"):
        assert "python3.10 -m venv --system-site-packages .venv" in found[name].fix
    machine.path("/home/me/.venv/pyvenv.cfg").write_text("include-system-site-packages = true\n")
    assert found_on(machine)["system packages"].mark == "ok"
    found = found_on(replace(machine, python=replace(python, version="3.12.1")))
    assert found["system packages"].mark == "warn" and "this is Python 3.12" in found["system packages"].found


@pytest.mark.parametrize(
    ("files", "commands", "known", "name", "mark", "words", "fix"),
    [
        ({"/etc/nv_tegra_release": "# R35 (release), REVISION: 4.1"}, {}, {}, "JetPack", "bad", "L4T 35.4.1", "flash"),
        ({"/etc/nv_tegra_release": "# R36 (release), REVISION: 3.0"}, {}, {}, "JetPack", "bad", "L4T 36.3.0", "flash"),
        ({"/etc/nv_tegra_release": "what?"}, {}, {}, "L4T", "warn", "says nothing", "--runtime nvidia"),
        ({}, {("nvpmodel", "-q"): "NV Power Mode: 15W\n0\n"}, {}, "power mode", "warn", "15W", "nvpmodel -m 2"),
        ({}, {("nvpmodel", "-q"): ""}, {}, "power mode", "warn", "said:", "as root"),
        ({}, {("nvpmodel", "-q"): None}, {}, "power mode", "warn", "no nvpmodel", "as root"),
        ({}, {}, {"is_root": False}, "clocks", "absent", "only root can see them", "sudo jetson_clocks"),
        ({}, {("jetson_clocks", "--show"): "GPU MinFreq=306000000 MaxFreq=624000000 CurrentFreq=306000000"}, {},
         "clocks", "warn", "GPU at 306 of 624 MHz", "sudo jetson_clocks"),
        ({"/proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 300000 kB\nSwapTotal: 0 kB\n"}, {}, {}, "swap", "warn",
         "none", "mkswap"),
        ({"/proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 300000 kB\n"}, {}, {}, "memory", "warn",
         "292 MiB of them", "multi-user"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_on_a_jetson(machine_of, files, commands, known, name, mark, words, fix):
    finding = found_on(machine_of(ORIN | files, JETPACK | commands, **known))[name]
    assert (finding.mark, words in finding.found, fix in finding.fix) == (mark, True, True), finding


def test_a_desktop_whose_driver_is_of_cuda_12_and_whose_bindings_are_newer(machine_of, monkeypatch):
    """The words are those of the code that would run there, on a runtime that refuses the driver."""
    monkeypatch.setattr(cuda, "load_runtime", lambda: FakeCuda(driver=False))
    commands = {SMI: "550.90.07, NVIDIA GeForce RTX 3060, 12288 MiB\n"}
    machine = machine_of(PC | RTX, commands, {("gpu",): answer_to("gpu")})
    found = found_on(machine)
    assert marks_of(found, "bad") == {"GPU"}
    assert found["driver"].found == "550.90.07: NVIDIA GeForce RTX 3060 (12288 MiB)"
    assert "cudaErrorInsufficientDriver" in found["GPU"].found and "'cuda-bindings<13'" in found["GPU"].fix
    assert found["libcuda"].found == "for CUDA 12.6"
    monkeypatch.setattr(cuda, "load_runtime", lambda: FakeCuda(sm="8.6"))
    machine = machine_of(PC | RTX, commands, {("gpu",): answer_to("gpu")})
    found = found_on(machine)
    assert marks_of(found, "bad") == set()
    assert found["compute capability"].found == "8.6: tensorrt or tensorrt_rtx"


def test_a_gpu_without_a_driver(machine_of):
    lacking = {("driver",): {"error": "OSError: libcuda.so.1: cannot open shared object file", "remedy": ""}}
    found = found_on(machine_of(PC | RTX, {}, lacking))
    assert (found["driver"].mark, found["libcuda"].mark) == ("bad", "bad")
    assert "on the bus" in found["driver"].found and "ubuntu-drivers" in found["driver"].fix
    kernel = {"/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri\n"}
    found = found_on(machine_of(kernel, {SMI: "Failed to initialize NVML: Driver/library version mismatch\n"}))
    assert found["driver"].found == "550.90.07, by the kernel; nvidia-smi says nothing"


def test_a_bare_laptop_lacks_nothing_that_it_needs(machine_of):
    missing = {("library", name): NOT_INSTALLED for name in ("tensorrt", "tensorrt_rtx", "onnxruntime")}
    missing |= {(name,): {"error": "cannot be imported", "remedy": "pip install"} for name in ("bindings", "gpu")}
    found = found_on(machine_of(PC, {}, missing))
    assert marks_of(found, "bad") == marks_of(found, "warn") == set()
    assert found["openvino"].mark == "ok" and found["driver"].found == "no NVIDIA GPU and no driver here"
    assert "libcuda" not in found and not found["tensorrt"].fix and not found["cuda-bindings"].fix
    nothing = missing | {("library", "openvino"): NOT_INSTALLED}
    assert found_on(machine_of(PC, {}, nothing))["backends"].fix == "pip install 'vlf_edge[cpu]'"


@pytest.mark.parametrize(
    ("answers", "name", "words", "fix"),
    [
        ({("opencv",): {"error": "OpenCV is not installed (numpy.core.multiarray failed to import)", "remedy": "x"},
          ("numpy",): {"version": "2.1.0"}}, "OpenCV", "built for another NumPy than 2.1.0", "'numpy<2'"),
        ({("opencv",): {"error": "OpenCV is not installed (No module named 'cv2')", "remedy": "pip install it"}},
         "OpenCV", "No module named 'cv2'", "pip install it"),
        ({("numpy",): {"error": "ImportError: no", "remedy": ""}}, "NumPy", "ImportError: no", "--force-reinstall"),
        ({("library", "openvino"): {"error": "openvino is installed but cannot be imported (no symbol x)",
                                    "remedy": "reinstall it"}}, "openvino", "no symbol x", "reinstall it"),
        ({("library", "tensorrt"): {"error": "its process ended: killed by SIGSEGV", "remedy": ""}},
         "tensorrt", "killed by SIGSEGV", "reinstall it with: pip install 'vlf_edge[tensorrt]'"),
        ({("driver",): {"cuda": "12.6", "init": 999}}, "libcuda", "error 999", "reboot"),
    ],
)  # fmt: skip
def test_what_is_there_and_broken(machine_of, answers, name, words, fix):
    commands = {SMI: "550.90.07, NVIDIA GeForce RTX 3060, 12288 MiB\n"}
    finding = found_on(machine_of(PC | RTX, commands, answers))[name]
    assert (finding.mark, words in finding.found, fix in finding.fix) == ("bad", True, True), finding


def test_an_opencv_without_gstreamer_matters_on_a_jetson(machine_of):
    without = {("opencv",): WELL["opencv",] | {"gstreamer": False, "ffmpeg": False}}
    for files, mark in ((PC, "absent"), (ORIN, "warn")):
        found = found_on(machine_of(files, JETPACK, without))
        assert (found["GStreamer"].mark, found["FFmpeg"].mark) == (mark, "warn")
        assert "--system-site-packages" in found["GStreamer"].fix


def test_cameras_and_what_they_give(machine_of, monkeypatch):
    machine = machine_of(PC | {"/dev/video0": "", "/dev/video1": "", "/dev/video10": ""})
    known = {
        "video0": {"card": "Webcam", "captures": True, "formats": [
            {"fourcc": "MJPG", "sizes": [[640, 480, 30.0], [1920, 1080, 30.0]]}, {"fourcc": "YUYV", "sizes": []}]},
        "video1": {"card": "Webcam", "captures": False, "formats": []},
        "video10": {"error": "OSError: [Errno 16] Device or resource busy", "remedy": ""},
    }  # fmt: skip
    machine = replace(machine, ask=lambda *w, limit_s=0.0: known[Path(w[1]).name] if w[0] == "camera" else WELL[w])
    found = found_on(machine)
    assert found["/dev/video0"].found == "Webcam: MJPG 1920x1080 at 30 fps, 640x480 at 30 fps; YUYV"
    assert "/dev/video1" not in found and "cameras" not in found
    assert "busy" in found["/dev/video10"].found and "fuser" in found["/dev/video10"].fix
    monkeypatch.setattr("os.access", lambda path, mode: False)
    finding = found_on(replace(machine, groups=frozenset()))["/dev/video0"]
    assert finding.mark == "bad" and "sudo usermod -aG video" in finding.fix


def test_a_camera_is_asked_as_the_kernel_wants_it(tmp_path):
    """Requests and layouts are written out here once more, from linux/videodev2.h."""
    (tmp_path / "video0").touch()

    def ioctl(handle, request, raw, mutate):
        assert mutate and isinstance(raw, bytearray)
        kind, size, number = request >> 30, request >> 16 & 0x3FFF, request & 0xFF
        assert request >> 8 & 0xFF == ord("V") and size == len(raw) and kind == (2 if number == 0 else 3)
        index, second = struct.unpack_from("2I", raw)
        if number == 0:
            raw[16:20], raw[84:88], raw[88:92] = b"Cam\0", struct.pack("I", 1 << 31), struct.pack("I", 1)
        elif number == 2 and index < 2 and second == 1:
            raw[44:48] = (b"MJPG", b"YUYV")[index]
        elif number == 74 and index < 2:
            raw[8:20] = struct.pack("3I", 1, *((640, 480), (1280, 720))[index])
        elif number == 75 and index < 2:
            raw[16:28] = struct.pack("3I", 1, 1, (30, 15)[index])
        else:
            raise OSError(22, "Invalid argument")

    sizes = [[640, 480, 30.0], [1280, 720, 30.0]]
    formats = [{"fourcc": "MJPG", "sizes": sizes}, {"fourcc": "YUYV", "sizes": sizes}]
    assert describe(str(tmp_path / "video0"), ioctl) == {"card": "Cam", "captures": True, "formats": formats}
    with pytest.raises(OSError, match="ioctl"):  # no camera
        describe(str(tmp_path / "video0"))


def on_this_machine(plan: Path) -> Machine:
    """Questions are answered in this process: that is quicker, and nothing here crashes."""
    return Machine(ask=lambda *words, limit_s=0.0: answer_to(*words), plan=plan)


PLAN_CHECK = [check for check in TABLE if check.section == "Plan"]


def test_a_plan_that_runs_and_answers_rightly():
    sections = examine(on_this_machine(GOLDEN / "format1-fp32-golden-windows.plan"), PLAN_CHECK)
    found = {finding.name: finding for finding in sections["Plan"]}
    assert not plan_fails(sections) and "golden windows" not in found
    for name in ("runs", "on openvino", "on onnxruntime"):
        assert found[name].mark == "ok" and "16 of 16 golden windows right" in found[name].found, found[name]
    assert "on openvino: first decision " in found["runs"].found
    sections = examine(on_this_machine(GOLDEN / "format1-fp32.plan"), PLAN_CHECK)
    found = {finding.name: finding for finding in sections["Plan"]}
    assert not plan_fails(sections) and found["golden windows"].mark == "absent"


def test_a_plan_that_answers_wrongly_or_does_not_open(tmp_path, monkeypatch):
    manifest, members = parts_of(Plan.open(GOLDEN / "format1-fp32-golden-windows.plan"))
    about = json.loads(members["golden.json"])
    about["logits"] = [[-value for value in row] for row in about["logits"]]
    path = craft(tmp_path / "wrong.plan", manifest, members | {"golden.json": json.dumps(about).encode()})
    sections = examine(on_this_machine(path), PLAN_CHECK)
    assert plan_fails(sections)
    wrong = {finding.name: finding.found for finding in sections["Plan"] if finding.mark == "bad"}
    assert {"runs", "on openvino", "on onnxruntime"} <= set(wrong) and "otherwise" in wrong["runs"]
    path.write_bytes(path.read_bytes()[:-100])
    sections = examine(on_this_machine(path), PLAN_CHECK)
    assert plan_fails(sections) and [finding.name for finding in sections["Plan"]] == ["file"]


def test_one_backend_of_two_that_answers_wrongly(monkeypatch):
    """What ``run`` would do is told: the next is taken."""
    machine = on_this_machine(GOLDEN / "format1-fp32-golden-windows.plan")

    def ask(*words, limit_s=0.0):
        answer = answer_to(*words)
        if answer.get("backend") == "openvino":
            answer["golden"] |= {"right": 2, "fault": "its logits are off by 40.0%"}
        return answer

    sections = examine(replace(machine, ask=ask), PLAN_CHECK)
    found = {finding.name: finding for finding in sections["Plan"]}
    assert not plan_fails(sections) and found["on openvino"].mark == found["runs"].mark == "warn"
    assert "off by 40.0%; onnxruntime is taken" in found["runs"].found and found["on onnxruntime"].mark == "ok"


def test_a_check_that_hangs_or_fails_is_a_finding_of_its_own():
    forever = threading.Event()

    def hang(machine):
        yield Finding("first", "ok", "is told")
        forever.wait()

    def fail(machine):
        raise ValueError("an oversight")
        yield

    sections = examine(Machine(), [Check("A", hang, 0.05), Check("B", fail, 5.0), Check("C", hang, 0.0, alone=True)])
    forever.set()
    assert [finding.found for finding in sections["A"]] == ["is told", "no answer within 0.05 s"]
    assert "ValueError: an oversight" in sections["B"][0].found and sections["C"][-1].mark == "bad"


def test_a_question_is_answered_by_a_process_that_may_hang_or_crash(monkeypatch):
    assert set(ask_child("numpy")) == {"version"}
    assert ask_child("library", "no such")["error"]
    assert ask_child("numpy", limit_s=0)["error"] == "it did not answer within 0 s"
    monkeypatch.setattr(machine_module, "_CHILD", "import os; print('last words', flush=True); os.abort()")
    assert "killed by SIGABRT; it last said: last words" in ask_child("numpy")["error"]
    assert run_command("vlf-no-such-command") is None and run_command("sleep", "9", limit_s=0) == ""
    assert run_command("echo", "hello") == "hello\n"


def test_every_question_that_is_asked_is_known(machine_of):
    recorder = Recorder(machine_of(ORIN, JETPACK))
    examine(recorder.machine)
    words = [line.split(" s  ")[1].split() for line in recorder.lines]
    assert {word[0] for word in words} - {"nvpmodel", "dpkg-query", "jetson_clocks", "nvidia-smi"} <= set(QUESTIONS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:p@ss/w:rd#%@10.0.0.5/a", "rtsp://***@10.0.0.5/a"),
        ("http://h/x?token=abc&size=3", "http://h/x?token=***&size=3"),
        ("/home/alice/clips and /home/bob", "~/clips and /home/USER"),
        ("/mnt/alice/x, alice's", "/mnt/USER/x, alice's"),
        ("key is s3cr3t!", "key is ***"),
        ("on workhorse here", "on HOST here"),
        ("/opt/plain", "/opt/plain"),
    ],
)
def test_secrets_do_not_go_into_a_bundle(text, shown):
    environment = {"HOME": "/home/alice", "API_KEY": "s3cr3t!", "PWD": "/opt/plain", "AUTH": "x"}
    assert without_secrets(text, environment, user="alice", host="workhorse") == shown


def test_a_bundle_holds_what_a_bug_report_needs(tmp_path, machine_of, monkeypatch):
    monkeypatch.setenv("CAMERA_PASSWORD", "hunter22")
    plan = GOLDEN / "format1-fp32-golden-windows.plan"
    sections = examine(machine_of(PC))
    sections["Cameras"] = [Finding("/dev/video0", "ok", "hunter22 in rtsp://a:hunter22@b")]
    names = write_bundle(tmp_path / "bug.zip", sections, ["1 s hunter22"], plan)
    with zipfile.ZipFile(tmp_path / "bug.zip") as archive:
        assert archive.namelist() == names and len(names) == 6
        texts = {name: archive.read(name).decode() for name in names}
    assert json.loads(texts["report.json"])["counts"] == to_json(sections)["counts"]
    assert "numpy " in texts["packages.txt"] and json.loads(texts["plan/manifest.json"])["precision"] == "fp32"
    assert not any("hunter22" in text for text in texts.values())
    assert write_bundle(tmp_path / "bug.zip", sections, [], plan, with_weights=True)[-1] == "plan/vlf.plan"
    with zipfile.ZipFile(tmp_path / "bug.zip") as archive:
        assert archive.read("plan/vlf.plan") == plan.read_bytes()


def test_the_structure_of_the_json_is_stable(machine_of):
    sections = examine(machine_of(ORIN, JETPACK))
    told = to_json(sections)
    assert list(told) == ["format", "vlf_edge", "counts", "sections"] and list(told["counts"]) == list(MARKS)
    assert [section["name"] for section in told["sections"]] == [
        "Python", "Images", "GPU", "Backends", "Machine", "Cameras",
    ]  # fmt: skip
    for section in told["sections"]:
        for finding in section["findings"]:
            assert list(finding) == ["name", "mark", "found", "expected", "fix"] and finding["mark"] in MARKS
    text = to_text(sections)
    assert text.startswith("Python\n  ok      Python") and f"\n{told['counts']['ok']} ok, " in text


def test_the_command_on_this_machine(tmp_path, capsys):
    """In earnest: every question in a process of its own."""
    plan, bundle = GOLDEN / "format1-fp32-golden-windows.plan", tmp_path / "bug.zip"
    assert main(["doctor", str(plan), "--json", "--bundle", str(bundle)]) == 0
    out, err = capsys.readouterr()
    told = {section["name"]: section["findings"] for section in json.loads(out)["sections"]}
    assert list(told)[-1] == "Plan" and not [f for f in told["Plan"] if f["mark"] == "bad"]
    assert any("16 of 16 golden windows right" in finding["found"] for finding in told["Plan"])
    assert str(bundle) in err and zipfile.is_zipfile(bundle)
    assert main(["doctor", "--with-weights"]) == 1 and "--bundle FILE.zip" in capsys.readouterr().err
