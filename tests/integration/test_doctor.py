from fastvmt_pl.planning import machine


def test_a_machine_is_described_line_by_line(succeed, tmp_path):
    statuses = {line.split()[0] for line in succeed("doctor", "--folder", tmp_path).out.splitlines()}
    assert "ok" in statuses
    assert statuses <= {"ok", "warning"}


def test_failures_are_counted_and_named(refused, monkeypatch):
    monkeypatch.setattr(machine, "check_video", lambda: iter([machine.Check("failure", "video", "broken")]))
    line = refused("doctor", code=1)
    assert "1 checks failed: video" in line
