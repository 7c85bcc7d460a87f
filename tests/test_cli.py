"""The command line as a user meets it: real processes, what they print and what they exit with."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

SERPIPE = [sys.executable, "-m", "serpipe"]


def serpipe(*words, stdin=b"", **more):
    return subprocess.run([*SERPIPE, *words], input=stdin, capture_output=True, timeout=60, **more)


@contextmanager
def running(*words, **more):
    """A serpipe that stands: `where` are the two words of its --ready-fd line."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [*SERPIPE, "--ready-fd", str(write), *words],
        pass_fds=[write],
        stderr=subprocess.PIPE,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **more},
    )
    os.close(write)
    with os.fdopen(read) as ready:
        line = ready.readline().split()
    if not line:
        pytest.fail(f"{words} did not stand: {process.communicate()[1].decode()}")
    process.where = line[1:]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def port_of(where):
    return int(where.rpartition(":")[2])


@contextmanager
def tcp_server(talk):
    """A server for one client, on its own thread; `talk(sock)` is the conversation."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            client, _ = server.accept()
            with client:
                talk(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(20)


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "nothing to do"),
        (["--versoin"], 2, "did you mean --version?\n  --versoin\n  ^^^^^^^^^"),
        (
            ["-b", "9600", "-", "tcp:1"],
            2,
            "write it behind the endpoint, as /dev/ttyUSB0,115200\n  -b 9600 - tcp:1\n   ^",
        ),
        (["-xZ", "-", "tcp:1"], 2, "there is no option -Z"),
        (["-t"], 2, "-t needs a value"),
        (["-t", "soon", "-", "tcp:1"], 2, "'soon' is not a time"),
        (["--trace"], 2, "--trace needs a value"),
        (["--explain=1", "-", "tcp:1"], 2, "takes no value"),
        (["--l", "1", "-", "tcp:1"], 2, "--left-only or --linger"),
        (["-u", "-U", "-", "tcp:1"], 2, "let no byte through"),
        (["--ready-fd", "77", "-", "tcp:1"], 2, "is no open descriptor"),
        (["-", "tpc:lab3:4000"], 2, "did you mean tcp?\n  - tpc:lab3:4000\n    ^^^"),
        (["-", "hexdmup", "tcp:1"], 2, "did you mean hexdump?\n  - hexdmup tcp:1\n    ^^^^^^^"),
        (["-"], 2, "a chain needs two endpoints"),
        (["/dev/ttyNOTHERE", "null:"], 3, "/dev/ttyNOTHERE: no such device"),
        (["/dev/ttyNOTHERE,parity=evn", "null:"], 2, "'evn' is no parity"),
        (["hlep"], 2, "neither a command nor an endpoint; did you mean help?"),
        (["port"], 2, "did you mean ports"),
        (["-", "tcp:127.0.0.1:1"], 3, "connection refused; nothing listens there"),
        (["-", "tcp:no-such-host.invalid:1"], 3, "the name does not resolve"),
    ],
)
def test_a_fault_is_one_line_with_a_cure_and_the_right_exit_code(words, code, says):
    done = serpipe(*words)
    assert done.returncode == code
    assert says in done.stderr.decode()
    assert done.stdout == b""
    assert "Traceback" not in done.stderr.decode()


def test_version_and_help():
    assert serpipe("--version").stdout.startswith(b"serpipe ")
    assert b"Usage:" in serpipe("--help").stdout
    assert serpipe("help").returncode == 0


def test_explain_runs_nothing():
    done = serpipe("--explain", "-x", "-v", "rfc2217-listen:4000", "tcp:lab3:4000")
    text = done.stdout.decode()
    assert done.returncode == 0
    assert "inserted: by -x or -v" in text
    assert "inserted: tcp: is no port" in text
    assert "gear" in text


def test_a_traceback_only_with_ddd():
    plain, deep = serpipe("-", "tcp:127.0.0.1:1"), serpipe("-ddd", "-", "tcp:127.0.0.1:1")
    assert b"Traceback" not in plain.stderr
    assert b"Traceback" in deep.stderr


def test_quiet_says_nothing_but_errors():
    assert serpipe("-q", "-", "null:").stderr == b""
    assert b"refused" in serpipe("-q", "-", "tcp:127.0.0.1:1").stderr


# --- running ----------------------------------------------------------------------------------------------------------


def test_stdin_reaches_a_port_and_comes_back():
    done = serpipe("-t", "0.3", "-", "loop:,realtime=off", stdin=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello")
    assert done.stderr == b"serpipe: stdio -> loop: 9600 8N1 flow=none\n"


def test_a_reply_that_comes_long_after_the_end_of_input():
    asked = []
    release = threading.Event()

    def talk(sock):
        asked.append(sock.makefile("rb").read())
        release.wait(20)
        sock.sendall(b"late reply")

    with tcp_server(talk) as port:
        timer = threading.Timer(5, release.set)
        timer.start()
        done = serpipe("-", f"tcp:127.0.0.1:{port}", stdin=b"x")
    assert asked == [b"x"]
    assert done.stdout == b"late reply"
    assert done.returncode == 0


def test_many_clients_at_the_same_time():
    with tcp_echo() as port, running("tcp-listen:0", f"tcp:127.0.0.1:{port}") as server:
        address = ("127.0.0.1", port_of(server.where[0]))
        socks = [socket.create_connection(address) for _ in range(5)]
        for i, sock in enumerate(reversed(socks)):
            sock.sendall(b"%d" % i)
        assert [sock.recv(1) for sock in reversed(socks)] == [b"0", b"1", b"2", b"3", b"4"]
        for sock in socks:
            sock.close()


@contextmanager
def tcp_echo():
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def echo(client):
            with client, suppress(ConnectionError):
                while data := client.recv(65536):
                    client.sendall(data)

        def serve():
            while not stop.is_set():
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        stop.set()


def test_a_port_has_one_client_at_a_time_and_says_so():
    with running("tcp-listen:0", "loop:,realtime=off") as server:
        address = ("127.0.0.1", port_of(server.where[0]))
        with socket.create_connection(address) as first:
            first.sendall(b"mine")
            assert first.recv(4) == b"mine"
            with socket.create_connection(address) as second:
                assert b"loop: is in use by client 127.0.0.1" in second.makefile("rb").read()
            first.sendall(b"still")
            assert first.recv(5) == b"still"


def test_kick_takes_over():
    with running("tcp-listen:0,busy=kick", "loop:,realtime=off") as server:
        address = ("127.0.0.1", port_of(server.where[0]))
        with socket.create_connection(address) as first, socket.create_connection(address) as second:
            assert first.recv(1) == b""
            second.sendall(b"mine")
            assert second.recv(4) == b"mine"


def test_a_listener_ends_after_its_first_client_where_stdio_is_the_other_end():
    with running("tcp-listen:0", "-", stdout=subprocess.PIPE) as server:
        with socket.create_connection(("127.0.0.1", port_of(server.where[0]))) as sock:
            sock.sendall(b"to stdout")
        out, _ = server.communicate(timeout=20)
        assert out == b"to stdout"
        assert server.returncode == 0


def test_a_trace_has_every_event_at_every_position(tmp_path):
    path = tmp_path / "trace"
    serpipe("--trace", str(path), "-t", "0.3", "-", "checksum", "loop:,realtime=off", stdin=b"hi")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    seen = {(x["lane"], x["position"], x["event"].get("hex")) for x in lines if x["event"]["event"] == "Data"}
    assert {("->", 0, "6869"), ("->", 1, "6869")} <= seen
    assert [x["position"] for x in lines if x["lane"] == "->" and x["event"]["event"] == "Eof"] == [0, 1]


def test_idle_time_ends_with_5():
    done = serpipe("-T", "0.2", "loop:", "null:")
    assert done.returncode == 5
    assert b"nothing moved for 0.2 s" in done.stderr


# --- signals and closed ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_is_seen_by_the_parent(number, tmp_path):
    link = tmp_path / "port"
    with running(f"pty:{link}", "loop:") as process:
        assert link.is_symlink()
        process.send_signal(number)
        process.wait(20)
        assert process.returncode == -number
    assert not link.is_symlink()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_delivers_what_was_accepted_or_counts_it():
    def talk(sock):
        release.wait(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    release = threading.Event()
    with tcp_server(talk) as port:
        process = subprocess.Popen(
            [*SERPIPE, "-u", "-t", "0.2", "-", f"tcp:127.0.0.1:{port}"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        os.set_blocking(process.stdin.fileno(), False)
        stuck = 0
        while stuck < 5:  # the peer reads nothing: fill everything there is
            try:
                os.write(process.stdin.fileno(), bytes(65536))
                stuck = 0
            except BlockingIOError:
                stuck += 1
                threading.Event().wait(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        release.set()
    assert process.returncode == -signal.SIGTERM
    assert b"bytes were accepted and not delivered" in err
    assert err.count(b"\n") == 2


def test_a_closed_stdout():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*SERPIPE, "-t", "0.2", "file:/dev/zero", "-"], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert done.returncode == 3
    assert b"standard output: closed by its reader" in done.stderr
    assert b"Traceback" not in done.stderr


def test_nothing_is_changed_on_the_pipe_we_share():
    read, write = os.pipe()
    with running("-", "null:", stdin=read) as process:
        os.write(write, b"x")
        assert os.get_blocking(read)
        os.close(write)
        assert process.wait(20) == 0
    assert os.get_blocking(read)
    os.close(read)


# --- files ------------------------------------------------------------------------------------------------------------


def test_files(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(os.urandom(300_000))
    assert serpipe(f"file:{source}", f"file:{target}").returncode == 0
    assert target.read_bytes() == source.read_bytes()
    again = serpipe(f"file:{source}", f"file:{target}")
    assert again.returncode == 3
    assert b"append writes behind what it holds, truncate empties it first" in again.stderr
    assert serpipe(f"file:{source}", f"file:{target},append").returncode == 0
    assert target.stat().st_size == 600_000
    assert serpipe(f"file:{source}", f"file:{target},truncate").returncode == 0
    assert target.stat().st_size == 300_000


def test_a_full_disk(tmp_path):
    done = serpipe("file:/dev/zero", "file:/dev/full")
    assert done.returncode == 3
    _start, dropped, error = done.stderr.splitlines()
    assert b"bytes were accepted and not delivered" in dropped
    assert b"the disk is full" in error


def test_no_permission(tmp_path):
    # root may open everything but what sysfs says is not there to be written
    target = "/sys/kernel/uevent_seqnum" if os.geteuid() == 0 else "/etc/shadow"
    done = serpipe("null:", f"file:{target},append")
    assert done.returncode == 3
    assert b"permission denied" in done.stderr


def test_a_stdin_that_is_dev_null_is_no_input_and_no_end():
    with running("-", "loop:,realtime=off", stdin=subprocess.DEVNULL) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)


def test_a_busy_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = serpipe(f"tcp-listen:{taken.getsockname()[1]}", "null:")
    assert done.returncode == 3
    assert b"the address is in use" in done.stderr


def test_memory_stays_bounded_when_the_sink_is_slow():
    """1 GiB offered through tcp-listen, pace and tcp, cut after what pace lets through in a while."""
    with tcp_sink() as port, running("tcp-listen:0,once", "pace:1M/s", f"tcp:127.0.0.1:{port}") as process:
        with socket.create_connection(("127.0.0.1", port_of(process.where[0]))) as sock:
            sock.setblocking(False)
            sent = 0
            piece = bytes(1 << 20)
            waits = 0
            while sent < 1 << 30 and waits < 100:  # ten seconds
                try:
                    sent += sock.send(piece)
                except BlockingIOError:
                    waits += 1
                    threading.Event().wait(0.1)
            with open(f"/proc/{process.pid}/status") as status:
                high = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert sent < 100 << 20, "the blocked sink did not stop the source"
    assert high < 80 * 1024, f"{high} kB"


@contextmanager
def tcp_sink():
    def talk(sock):
        while sock.recv(65536):
            pass

    with tcp_server(talk) as port:
        yield port


# --- what is closed ---------------------------------------------------------------------------------------------------


def shell(line, **more):
    """Through a real shell, with serpipe as $S."""
    env = {**os.environ, "S": f"{sys.executable} -m serpipe"}
    return subprocess.run(["sh", "-c", line], capture_output=True, timeout=60, env=env, **more)


def test_a_closed_stdout_is_said_and_nothing_else_gets_its_number():
    done = shell("printf hi | $S -t 0.2 - loop:,realtime=off >&-")
    assert done.returncode == 3
    assert b"standard output is closed" in done.stderr
    assert b"fault of serpipe" not in done.stderr


def test_a_closed_stdin_is_no_input_and_no_end():
    done = shell("timeout 2 $S - loop:,realtime=off <&-; echo $?")
    assert b"124" in done.stdout  # it was still there
    assert b"invalid argument" not in done.stderr


def test_all_three_closed_is_no_fault():
    assert shell("$S -t 0.1 -u file:/etc/hostname null: <&- >&- 2>&-; exit $?").returncode == 0


def test_a_chain_whose_reader_has_gone_ends_though_bytes_keep_coming():
    with tcp_echo() as port:
        done = shell(f"yes | timeout 20 $S -t 0.2 - tcp:{port} | head -c 10; true")
    assert done.stdout == b"y\ny\ny\ny\ny\n"
    assert b"standard output: closed by its reader" in done.stderr


@pytest.mark.parametrize("words", ["--version", "--help", "help", "--explain - loop:", "ports --json"])
def test_a_product_that_cannot_be_written_is_an_error_and_no_fault(words):
    done = shell(f"$S {words} >/dev/full")
    assert done.returncode == 3
    assert b"standard output: the disk is full" in done.stderr


def test_ready_on_stderr_leaves_it_open():
    with subprocess.Popen(
        [*SERPIPE, "--ready-fd", "2", "-d", "tcp-listen:0", "null:"], stderr=subprocess.PIPE
    ) as process:
        start, ready = process.stderr.readline(), process.stderr.readline()
        assert b"listening on" in start
        with socket.create_connection(("127.0.0.1", port_of(ready.split()[1].decode()))) as client:
            assert b"connected" in process.stderr.readline()
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(100)
        process.terminate()


def test_ready_is_not_mixed_into_the_data():
    done = serpipe("--ready-fd", "1", "-", "loop:")
    assert done.returncode == 2
    assert b"carries the data of stdio" in done.stderr


@pytest.mark.parametrize("words", [["--trace", "/no/such"], []])
def test_a_file_that_a_stage_cannot_write_is_found_at_the_start(words):
    done = serpipe(*words, "tcp-listen:0", *([] if words else ["hexdump:/no/such"]), "null:")
    assert done.returncode == 3
    assert b"/no/such" in done.stderr
    assert b"listening" not in done.stderr


@pytest.mark.parametrize("words", [["hexdump:/dev/full"], ["--trace", "/dev/full"]])
def test_a_full_disk_beside_the_stream_is_named(words):
    options = words if len(words) > 1 else []
    done = serpipe(*options, "-", *([] if options else words), "null:", stdin=b"x")
    assert done.returncode == 3
    assert b"file /dev/full: the disk is full" in done.stderr


def test_a_second_client_while_once_serves_its_own():
    with running("tcp-listen:0,once", "null:") as server:
        address = ("127.0.0.1", port_of(server.where[0]))
        with socket.create_connection(address), socket.create_connection(address) as second:
            assert b"one client only" in second.makefile("rb").read()
        assert server.wait(20) == 0


def test_a_server_that_goes_is_an_error():
    with running("rfc2217-listen:0", "loop:") as server:
        process = subprocess.Popen(
            [*SERPIPE, "--ready-fd", "1", "pty:", f"rfc2217:{server.where[0]}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.readline()
        server.kill()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert b"the server closed the connection" in err or b"reset by the peer" in err


@pytest.mark.parametrize("word", ["-tabc", "--linger=abc"])
def test_the_caret_of_a_value_that_is_joined_to_its_option(word):
    lines = serpipe(word, "-", "loop:").stderr.decode().splitlines()
    assert lines[1:] == [f"  {word} - loop:", "  " + " " * (len(word) - 3) + "^^^"]
