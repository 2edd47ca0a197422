import subprocess
import sys

from fastvmt_pl.clips.decoder_process import SCRIPT


def test_the_decoding_process_starts_without_torch():
    command = [sys.executable, "-P", "-X", "importtime", str(SCRIPT), "no socket"]
    imported = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr
    names = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "decoding.video_file" in names
    assert not names & {"torch", "fastvmt_pl"}
