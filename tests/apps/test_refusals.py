"""Wrong input is refused fast: before torch is imported, in one line, and without a trace."""

from fractions import Fraction
from zipfile import ZipFile

import av
import numpy as np
import pytest
from PIL import Image

from helpers.processes import fastest
from tttvideo.apps.commands import COMMANDS, module
from tttvideo.data.tokens import Header, token_writer
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.writer import VideoWriter, write_video


HELP_SECONDS, REFUSAL_SECONDS = 0.3, 1.0  # of CPU time


@pytest.fixture
def folder(tmp_path):
    """Files a.ckpt, a.mp4, a.bin, a.txt, one.png, float.npy; damaged and empty ones; a folder.

    slow.mp4 and fast.mp4 have rates that cannot be written.
    """
    with ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("data.pkl", b"")
    write_video(tmp_path / "a.mp4", bouncing_glyphs(8), 10, lossless=True)
    for name, rate in (("slow.mp4", Fraction(1, 300)), ("fast.mp4", Fraction(2400))):
        with av.open(str(tmp_path / name), "w") as container:
            writer = VideoWriter(container, rate, lossless=True)
            writer.write(np.zeros((64, 64, 3), np.uint8))
            container.mux(writer.stream.encode(None))
    with token_writer(tmp_path / "a.bin", Header("text", "bytes", 258, bos=256, eos=257)) as writer:
        writer.start_document()
        writer.write(np.arange(256))
    (tmp_path / "a.txt").write_text("It was the best of times. " * 9)
    for name in ("empty.ckpt", "empty.mp4", "empty.bin", "empty.txt", "empty.msgpack"):
        (tmp_path / name).touch()
    (tmp_path / "text.mp4").write_text("no video" * 99)
    np.save(tmp_path / "float.npy", np.zeros((2, 8, 8, 3)))
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    (tmp_path / "code.yaml").write_text("weights_only: false\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_within_a_third_of_a_second_of_cpu_time(command, tmp_path):
    finished = fastest(tmp_path, *command.split(), "--help", limit=HELP_SECONDS)
    assert finished.code == 0, finished.errors
    assert "example: tttvideo" in finished.output
    assert not finished.heavy
    assert finished.seconds < HELP_SECONDS


def test_every_command_has_a_parser_a_check_and_a_program():
    for name, (file, _) in COMMANDS.items():
        if file:
            command = module(name)
            assert command.parser().prog == f"tttvideo {name}"
            assert callable(command.check) and command.PROGRAM.startswith("tttvideo.apps.")


FIT = "fit --config text_tiny --data.train a.bin"
RATES = "frames per second, and videos are written at 0.01 to 1000; give it another rate:"
CLIPS = "fit --config frame_tokenizer_tiny --data.videos"
REFUSED = [
    ("predict a.ckpt a.mp4 --out a.txt/x", "a.txt is a file; name a folder"),
    (f"{FIT} --model.header x", "--model.header does not exist"),
    (f"{FIT} --model.start_from empty.ckpt", "empty.ckpt is not a"),
    (f"{FIT} --data.class_path tttvideo.data.module.TokenData", "tttvideo.data.modules.TokenData"),
    (f"{FIT} --out a.txt", "a.txt is a file; name a folder"),
    (f"{FIT} --ckpt_path http://localhost/a.ckpt", "ckpt_path http://localhost/a.ckpt is no file"),
    (f"{FIT} --ckpt_path registry:a", "ckpt_path registry:a is no file; download it"),
    (f"{FIT} --weights_only false", "weights_only is false, and a checkpoint could then run any"),
    (f"{FIT} --config code.yaml", "weights_only is false, and a checkpoint could then run any"),
    (f"{CLIPS} [empty.mp4]", "empty.mp4 is empty (0 bytes)"),
    ("fit --config conv_lstm_tiny --data.videos [empty.mp4]", "empty.mp4 is empty (0 bytes)"),
    ("fit --config conv_lstm_tiny --data.frames 1", "data.frames is 1; it must be 2 or more"),
    (f"{CLIPS} [2024]", "there is no file or folder 2024"),
    ("fly", "there is no command 'fly'; choose from demo, prepare"),
    ("prepare fly", "choose from text, video, pan, drawn, maze, recall"),
    ("generate", "arguments are required: CKPT; `tttvideo generate --help` explains"),
    ("generate a.ckpt --prompt x --tokens ten", "invalid int value: 'ten'"),
    ("generate nowhere.ckpt --prompt x", "there is no checkpoint nowhere.ckpt"),
    ("generate a.txt --prompt x", "a.txt is not a checkpoint"),
    ("generate empty.ckpt --prompt x", "empty.ckpt is not a checkpoint"),
    ("generate folder --prompt x", "there is no checkpoint folder"),
    ("generate a.ckpt --prompt-file nowhere.txt", "there is no prompt file nowhere.txt"),
    ("generate a.ckpt --prompt-file empty.txt", "the prompt empty.txt is empty"),
    ("generate a.ckpt --prompt x --temperature -1", "--temperature -1.0 must be 0 or more"),
    ("generate a.ckpt --prompt x --top-p 0", "--top-p 0.0 must be above 0 and at most 1"),
    ("generate a.ckpt --load-state nowhere", "there is no saved state nowhere"),
    ("generate a.ckpt --load-state a.txt", "a.txt is not a saved state of"),
    ("generate a.ckpt --prompt x --save-state folder", "--save-state folder is a folder"),
    ("predict a.ckpt nowhere.mp4 --out x", "there is no file or folder nowhere.mp4"),
    ("predict a.ckpt empty.mp4 --out x", "empty.mp4 is empty (0 bytes)"),
    ("predict a.ckpt text.mp4 --out x", "text.mp4"),
    ("predict a.ckpt folder --out x", "the folder folder has no video"),
    ("predict a.ckpt a.mp4 --horizon 0.01 --out x", "--horizon 0.01 is less than a frame"),
    ("predict a.ckpt a.mp4 --horizon nan --out x", "--horizon nan must be above 0 seconds"),
    ("predict a.ckpt a.mp4 --context nan --out x", "--context nan must be above 0 seconds"),
    ("predict a.ckpt slow.mp4 --out x", f"slow.mp4 has 0.003333 {RATES} ffmpeg -r 25 -i slow.mp4"),
    ("predict a.ckpt fast.mp4 --out x", f"fast.mp4 has 2400 {RATES} ffmpeg -r 25 -i fast.mp4"),
    ("prepare video slow.mp4 --frame-tokenizer a.ckpt --out x", f"slow.mp4 has 0.003333 {RATES}"),
    ("demo --video slow.mp4", f"slow.mp4 has 0.003333 {RATES}"),
    ("predict a.ckpt a.mp4 --actions a.txt --out x", "a.txt is no file of actions; give one of"),
    ("predict a.ckpt a.mp4 --poses a.npy --out x", "there is no file a.npy; it should have the"),
    ("predict a.ckpt a.mp4 --context 0 --out x", "--context 0.0 must be above 0 seconds"),
    ("predict a.ckpt a.mp4 --out a.txt", "a.txt is a file; name a folder"),
    ("verify nowhere.ckpt a.mp4", "there is no checkpoint nowhere.ckpt"),
    ("verify a.ckpt empty.mp4", "empty.mp4 is empty (0 bytes)"),
    ("verify a.ckpt a.mp4 --frames 39", "--frames 39 must be 40 or more"),
    ("verify a.ckpt a.mp4 --poses a.txt", "a.txt is no file of poses; give one of"),
    ("verify a.ckpt a.mp4 --out a.txt", "a.txt is a file; name a folder"),
    ("predict empty.ckpt a.mp4 --out x", "empty.ckpt is not a checkpoint"),
    ("prepare text nowhere --out x", "no file or folder nowhere"),
    ("prepare text empty.txt --out x", "empty.txt is empty"),
    ("prepare text a.mp4 --out x", "a.mp4 does not end in .txt, .md, "),
    ("prepare text a.txt --validation 2 --out x", "--validation 2.0 must be"),
    ("prepare text a.txt --tokenizer nowhere --out x", "there is no tokenizer nowhere"),
    ("prepare video nowhere --frame-tokenizer a.ckpt --out x", "no file or folder nowhere"),
    ("prepare video empty.mp4 --frame-tokenizer a.ckpt --out x", "empty.mp4 is empty"),
    ("prepare video text.mp4 --frame-tokenizer a.ckpt --out x", "text.mp4"),
    ("prepare video a.mp4 --frame-tokenizer nowhere --out x", "there is no checkpoint nowhere"),
    (
        "prepare video a.mp4 --frame-tokenizer a.ckpt --end 0 --out x",
        "--end 0.0 must be above",
    ),
    (
        "prepare video a.mp4 --frame-tokenizer a.ckpt --start 2 --end 1 --out x",
        "--end 1.0 must be above --start",
    ),
    ("prepare video a.mp4 --frame-tokenizer a.ckpt --augment -1 --out x", "--augment -1 must"),
    (
        "prepare video a.mp4 --frame-tokenizer a.ckpt --validation 1 --out x",
        "--validation 1.0 must",
    ),
    ("prepare video a.mp4 --frame-tokenizer a.ckpt --part 3/2 --out x", "3/2 must be I/N with I"),
    ("prepare video a.mp4 --frame-tokenizer a.ckpt --out a.mp4", "a.mp4 is a file; name a folder"),
    ("index nowhere", "there is no file or folder nowhere"),
    ("index empty.mp4", "empty.mp4 is empty (0 bytes)"),
    ("index a.mp4 --limit 0", "--limit 0.0 must be above 0 seconds"),
    ("index folder", "the folder folder has no video; videos end in .264, .265"),
    ("index *.txt", "has no video (2 other files passed over: .txt 2)"),
    ("index a.mp4 --fps 0", "--fps 0.0 must be above 0 frames per second"),
    ("index a.mp4 --fps 9", "all videos have their own times; it is for folders of pictures"),
    ("index a.mp4 --workers 0", "--workers 0 must be 1 or more"),
    ("index a.mp4 --max-bad -1", "--max-bad -1 must be 0 or more"),
    ("index a.mp4 --out folder", "--out folder is a folder; name a file"),
    ("index a.mp4 --out a.txt", "a.txt is no index of videos; remove it, or name another"),
    ("doctor nowhere", "there is no file or folder nowhere"),
    ("doctor one.png", "one.png is one picture; name its folder"),
    ("doctor float.npy", "float.npy: its array is float64 (2, 8, 8, 3); frames must be uint8"),
    ("doctor a.mp4 --limit nan", "--limit nan must be above 0 seconds"),
    ("prepare pan --out x --worlds 0", "--worlds 0 must be 1 or more"),
    ("prepare pan --out x --view 7", "--view 7 must be at most --size"),
    ("prepare maze --out x --size 481", "--size 481 must be at most 480"),
    ("prepare maze --out x --cells 1", "--cells 1 must be 2 or more"),
    ("prepare maze --out a.txt", "a.txt is a file; name a folder"),
    ("prepare drawn fly --out x", "invalid choice: 'fly' (choose from"),
    ("prepare drawn glyphs --out x --size 20", "--size 20 must be 24 or more for glyphs"),
    ("prepare drawn flash --out x --size 60", "--size 60 must be a multiple of 8 for flash"),
    ("prepare drawn pan --out x --size 56", "--size 56 must be at most 48, 8 times --cells"),
    ("prepare drawn glyphs --out x --held-out -1", "--held-out -1 must be 0 or more"),
    ("prepare drawn flash --out x --cells 9", "--cells is no option of flash, which has --colours"),
    ("prepare drawn code --out x --symbols 0", "--symbols 0 must be 1 or more"),
    ("prepare recall --out x.txt", "--out x.txt must end in .jsonl"),
    ("prepare recall --out x.jsonl --size 0", "--size 0 must be 1 or more"),
    ("prepare recall --out x.jsonl --length 1", "--length 1 must be 256 or more"),
    ("import nowhere x.ckpt", "no file or folder nowhere"),
    ("import folder x.ckpt", "cannot be read as safetensors"),
    ("import empty.msgpack x.ckpt", "empty.msgpack is empty"),
    ("import a.txt x.ckpt --config 2b", "--config 2b is neither a file nor a size"),
    ("import a.txt x.ckpt --tokenizer nowhere", "there is no tokenizer nowhere"),
    ("export nowhere.ckpt x", "there is no checkpoint nowhere.ckpt"),
    ("export a.ckpt a.txt", "a.txt is a file; name a folder"),
    ("demo --video nowhere.mp4", "there is no file or folder nowhere.mp4"),
    ("demo --video empty.mp4", "empty.mp4 is empty"),
    ("demo --video a.mp4", "a.mp4 has 8 frames; the demo needs at least 96"),
    ("demo --steps 0 5 5", "--steps 0 5 5 must all be 1 or more"),
    ("fit --config nowhere", "no config file nowhere"),
    ("fit --config text_tiny --data.train empty.bin --out x", "empty.bin is not a token file"),
    ("validate --config text_tiny --data.train a.bin --out x", "there is no x/last.ckpt"),
    ("compare nowhere.bin a.bin --out x", "no token file nowhere.bin"),
    ("evaluate text nowhere.ckpt a.bin --out x", "there is no checkpoint nowhere.ckpt"),
    ("evaluate text a.ckpt empty.bin --out x", "empty.bin is not a token file"),
    ("evaluate text a.ckpt a.bin --length 0 --out x", "--length 0 must be 1 or more"),
    ("evaluate length nowhere.ckpt a.mp4 --out x", "there is no checkpoint nowhere.ckpt"),
    ("evaluate length a.ckpt folder --out x", "the folder folder has no video"),
    ("evaluate length a.ckpt a.mp4 --out x --contexts 1 9", "--contexts 1 must be 2 or more"),
    ("evaluate length a.ckpt a.mp4 --out x --targets 0", "--targets 0 must be 1 or more"),
    ("evaluate video nowhere.ckpt a.mp4 --out x", "there is no checkpoint nowhere.ckpt"),
    ("evaluate video a.ckpt nowhere --out x", "there is no file or folder nowhere"),
    ("evaluate video a.ckpt a.mp4 --frames 20 --out x", "--frames 20 must be 32 or more"),
    (
        "evaluate video a.ckpt a.mp4 --protocol 10-10 --samples 2 --out x",
        "--protocol 10-10 sets --samples; leave one of them out",
    ),
    (
        "evaluate video a.ckpt a.mp4 --horizon 9 --i3d a.txt --out x",
        "FVD needs clips of 10 frames, and these have 9",
    ),
    (
        "evaluate video a.ckpt a.mp4 --lpips-weights nowhere --out x",
        "--lpips-weights nowhere: there is no such file",
    ),
    ("evaluate memory a.ckpt nowhere --out x", "nowhere"),
    ("evaluate memory a.ckpt a.mp4 --out x --videos 1", "--videos 1 must be 2 or more"),
    ("evaluate memory a.ckpt a.mp4 --out x --turn 400", "--turn 400.0 must be at most 360"),
    ("evaluate recall nowhere.ckpt --out x", "there is no checkpoint nowhere.ckpt"),
    ("evaluate facts --out x --length 95", "--length 95 must be 96 or more"),
    ("evaluate facts --out x --seconds 0", "--seconds 0.0 must be above 0"),
    ("evaluate scaling nowhere --out x", "there is no run folder nowhere"),
    ("evaluate harness nowhere.ckpt --tasks a --out x", "there is no checkpoint nowhere.ckpt"),
    ("compress nowhere.ckpt a.mp4 --out x", "there is no checkpoint nowhere.ckpt"),
    ("compress a.ckpt nowhere.mp4 --out x", "there is no file or folder nowhere.mp4"),
    ("compress a.ckpt a.bin --out x", "a.bin has tokens of text; name tokens of video"),
    ("compress a.ckpt a.mp4 --out folder", "--out folder is a folder; name a file"),
    ("decompress a.ckpt nowhere --out x.bin", "there is no file nowhere; make one with"),
    ("decompress a.ckpt a.txt --out x.bin", "a.txt is no file of `tttvideo compress`"),
    ("decompress a.ckpt a.txt --out x.txt", "--out x.txt must end in .bin, .npy, .mp4"),
    ("evaluate codec a=nowhere.ckpt a.mp4 --out x", "there is no checkpoint nowhere.ckpt"),
    ("evaluate codec a.ckpt a.mp4 --out a.txt", "a.txt is a file; name a folder"),
    ("reproduce nowhere", "there is no figure nowhere; choose from "),
    ("reproduce a.txt", "a.txt is not a config; it must be a YAML mapping"),
    ("reproduce codec --set steps=1", "--set needs --out DIR"),
    ("reproduce codec --out a.txt", "a.txt is a file; name a folder"),
    ("bench kernels --repeats 0", "--repeats 0 must be 1 or more"),
]


@pytest.mark.parametrize("line, message", REFUSED, ids=[line for line, _ in REFUSED])
def test_wrong_input_is_refused_within_a_second_of_cpu_time_and_leaves_nothing(
    folder, line, message
):
    before = {path.name for path in folder.iterdir()}
    finished = fastest(folder, *line.split(), limit=REFUSAL_SECONDS)
    assert finished.code == 1 and message in finished.errors
    assert finished.errors.count("\n") == 1 and finished.errors.startswith("tttvideo")
    assert not finished.heavy
    assert finished.seconds < REFUSAL_SECONDS
    assert {path.name for path in folder.iterdir()} - before == {"output", "errors", "heavy"}
