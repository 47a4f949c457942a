import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from stillroom import params
from stillroom.errors import DownloadError, InputError, ModelError, ParamsError
from stillroom.stages import models
from stillroom.stages.models import Params, Paths, Source, TeacherSource
from stillroom.training.tiny_recipe import TinyModel, TinyTeacher

SOURCE = Path(__file__).parents[2] / "src"
SIZES = {"vocabulary": 300, "hidden_size": 16, "intermediate_size": 16, "layers": 1, "positions": 512}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "documents").mkdir(parents=True)
    (folder / "documents/mill.md").write_text("# The mill\n\nThe mill turns at dawn.")
    lesson = {"document": "mill.md", "question": "When?", "quote": "turns at dawn", "answer": "at dawn"}
    (folder / "lessons.jsonl").write_text(json.dumps(lesson) + "\n")
    turns = [{"from": "human", "value": "Is there a mill?"}, {"from": "gpt", "value": "Yes, there is."}]
    (folder / "sharegpt.json").write_text(json.dumps([{"id": "a", "conversations": turns}]))
    return folder


def tiny(root, **changes):
    teacher = TeacherSource(tiny=TinyTeacher(**SIZES, steps=2))
    return Params(
        **{"root": str(root), "base": Source(tiny=TinyModel(**SIZES)), "teacher": teacher, **changes}
    )


def made(tmp_path, settings, name="models"):
    paths = Paths(tmp_path / name / "base", tmp_path / name / "teacher")
    models.run(paths, settings)
    return paths


def content(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture
def model(tmp_path, root):
    """A whole model folder below the root."""
    built = made(tmp_path, tiny(root, teacher=None), "given")
    built.base.rename(root / "given")
    return root / "given"


def test_the_tiny_models_are_made_twice_alike(tmp_path, root):
    paths = made(tmp_path, tiny(root))
    again = made(tmp_path, tiny(root), "again")
    for first, second in ((paths.base, again.base), (paths.teacher, again.teacher)):
        assert content(first) == content(second)
        assert not any(str(tmp_path).encode() in data for data in content(first).values())
        assert (first / "model.safetensors").stat().st_mode & 0o077 == 0o044
        model = AutoModelForCausalLM.from_pretrained(first)
        assert model.config.vocab_size == 300
        assert AutoTokenizer.from_pretrained(first).chat_template
    tokenizers = [content(folder)["tokenizer.json"] for folder in (paths.base, paths.teacher)]
    assert tokenizers[0] == tokenizers[1]
    assert content(paths.base)["model.safetensors"] != content(paths.teacher)["model.safetensors"]


def test_the_corpus_is_every_text_below_the_root(root):
    (root / "page.html").write_text("<p>bees</p>")
    (root / "nested.json").write_text(
        json.dumps({"key": ["deep", {"deeper": "deepest", "n": 1}], "no": None})
    )
    (root / "picture.png").write_bytes(b"\x89PNG")
    texts = list(models.corpus(root))
    assert {"<p>bees</p>", "deep", "deepest", "turns at dawn", "Is there a mill?"} <= set(texts)
    assert "key" not in texts
    assert not any("PNG" in text for text in texts)


def test_the_corpus_may_be_some_files_and_folders_of_the_root(root):
    (root / "README.md").write_text("Not of the isles.")
    some = list(models.corpus(root, ["documents", "documents", "sharegpt.json"]))
    everything = list(models.corpus(root))
    assert "Not of the isles." in set(everything) - set(some)
    assert some == [text for text in everything if text in set(some)]
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file"):
        list(models.corpus(root, ["absent.jsonl"]))


def test_a_root_without_texts_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(InputError, match="no texts"):
        made(tmp_path, tiny(tmp_path / "root", teacher=None))
    assert not any((tmp_path / "models").iterdir())


def test_a_lesson_that_does_not_fit_leaves_nothing(tmp_path, root):
    (root / "documents/mill.md").write_text("The mill burnt down.")
    with pytest.raises(InputError, match=r"mill\.md: does not hold the quote"):
        made(tmp_path, tiny(root))
    assert not (tmp_path / "models").exists()


def test_no_teacher_is_a_folder_that_says_so(tmp_path, root):
    paths = made(tmp_path, tiny(root, teacher=None))
    assert list(content(paths.teacher)) == ["README.md"]


def test_a_folder_is_copied_and_checked(tmp_path, root, model):
    paths = made(tmp_path, tiny(root, base=Source(path="given"), teacher=TeacherSource(path="given")))
    assert content(paths.base) == content(paths.teacher) == content(model)
    assert not (paths.base / "config.json").samefile(model / "config.json")


@pytest.fixture
def lora(root):
    """A peft folder below the root, with a file that is not needed."""
    folder = root / "lora"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt"):
        (folder / name).write_text(json.dumps({"name": name}))
    return folder


@pytest.mark.parametrize("source", [{"path": "lora"}, {"hub": "own/lora", "revision": COMMIT}])
def test_an_adapter_comes_with_the_base(tmp_path, root, lora, monkeypatch, source):
    monkeypatch.setattr(models, "hub_folder", lambda *asked: lora if asked[:2] == ("own/lora", COMMIT) else 0)
    paths = made(tmp_path, tiny(root, adapter=Source(**source), teacher=None))
    kept = {name: data for name, data in content(lora).items() if name != "optimizer.pt"}
    assert content(paths.base / "adapter") == kept
    assert (paths.base / "config.json").exists()


def test_what_is_no_adapter_is_an_error_and_leaves_nothing(tmp_path, root, lora):
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lora: no adapter_model.safetensors: not a peft folder"):
        made(tmp_path, tiny(root, adapter=Source(path="lora"), teacher=None))
    with pytest.raises(ParamsError, match=r"models\.adapter\.path: no folder"):
        made(tmp_path, tiny(root, adapter=Source(path="nowhere"), teacher=None))
    assert not (tmp_path / "models/base").exists()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("config.json", r"no config\.json"),
        ("model.safetensors", r"no weights"),
        ("tokenizer.json", r"no tokenizer"),
    ],
)
def test_an_incomplete_folder_is_an_error(tmp_path, root, model, gone, message):
    (model / gone).unlink()
    with pytest.raises(ModelError, match=message):
        made(tmp_path, tiny(root, base=Source(path="given"), teacher=None))
    assert not (tmp_path / "models/base").exists()


def test_a_missing_shard_is_named(model):
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors is missing"):
        models.check(model)


def test_a_path_that_is_no_folder_is_an_error(tmp_path, root):
    with pytest.raises(ParamsError, match=r"models\.base\.path: no folder"):
        made(tmp_path, tiny(root, base=Source(path="nowhere"), teacher=None))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("base: {}", "exactly one of hub, path, tiny"),
        ("base: {path: a, tiny: {}}", "exactly one of hub, path, tiny"),
        ("base: {hub: a/b}", "go together"),
        ("base: {hub: a/b, revision: main}", r":2: models\.base\.revision"),
        ("base: {hub: b, revision: " + COMMIT + "}", r":2: models\.base\.hub"),
        ("base: {tiny: {hiden_size: 8}}", "did you mean `hidden_size`"),
        ("base: {tiny: {heads: 3}}", "multiple of 2"),
        ("teacher: {tiny: {step: 8}}", "did you mean `steps`"),
        ("adapter: {tiny: {}}", "adapter: one of hub and path"),
    ],
)
def test_params_name_the_key_that_is_wrong(tmp_path, block, message):
    path = tmp_path / "params.yaml"
    path.write_text(f"models:\n  {block}\n")
    with pytest.raises(ParamsError, match=message):
        params.load("models", Params, path)


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's API that a download uses, over the files of `folder`."""

    folder: Path
    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path == f"/api/models/own/model/tree/{COMMIT}":
            files = [p for p in sorted(self.folder.iterdir()) if p.is_file()]
            entries = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": self.etag(p)} for p in files
            ]
            self.reply(json.dumps(entries).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/own/model/resolve/{COMMIT}/"):
            file = self.folder / path.rpartition("/")[2]
            self.reply(file.read_bytes(), {"ETag": f'"{self.etag(file)}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def reply(self, data, headers):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    @staticmethod
    def etag(path):
        return hashlib.sha1(path.read_bytes()).hexdigest()

    def log_message(self, *_):
        pass


def downloaded(tmp_path, endpoint, **environment):
    """Run the stage on a hub model in a process of its own, as the hub's address is read at import."""
    program = (
        "from stillroom.cli import main; import sys; sys.argv = ['stillroom', 'models']; sys.exit(main())"
    )
    (tmp_path / "params.yaml").write_text(
        f"models: {{root: root, base: {{hub: own/model, revision: {COMMIT}}}, teacher: null}}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hub"),
            "PYTHONPATH": str(SOURCE),
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        },
        capture_output=True,
        text=True,
    )


def test_a_hub_model_is_fetched_at_its_commit_without_what_is_not_needed(tmp_path, model):
    for extra in ("pytorch_model.bin", "training_args.bin", "model.gguf", "README.md"):
        (model / extra).write_bytes(b"not needed")
    handler = type("Handler", (Hub,), {"folder": model, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run = downloaded(tmp_path, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    assert run.returncode == 0, run.stderr
    got = content(tmp_path / "models/base")
    wanted = {"config.json", "generation_config.json", "model.safetensors", "chat_template.jinja"}
    assert set(got) == wanted | {"tokenizer.json", "tokenizer_config.json"}
    assert all(data == (model / name).read_bytes() for name, data in got.items())
    assert not any(path.endswith((".bin", ".gguf")) for path in handler.asked)
    without = downloaded(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert without.returncode == 0, without.stderr
    assert content(tmp_path / "models/base") == got


def test_without_a_network_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = Params(root="local", base=Source(hub="own/model", revision=COMMIT), teacher=None)
    with pytest.raises(DownloadError) as caught:
        made(tmp_path, settings)
    assert "local/model" in str(caught.value)
    assert "path: model" in str(caught.value)
    assert not (tmp_path / "models/base").exists()
