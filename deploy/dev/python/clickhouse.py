"""A ClickHouse engine that listens on 127.0.0.1, until it is told to end (SIGTERM).

    python3 clickhouse.py FOLDER [--read-only]

FOLDER holds `config.xml` and `users.xml`; the file `ports` (HTTP, native) is written there when the engine is ready.
`deploy/dev/clickhouse` makes all this, and starts it.

What it is. The package chdb-core holds the engine of ClickHouse as a library, which runs what the program
`clickhouse-local` runs. That one can listen, with the protocols, the users and the rights of the server. But it knows
one place for users only, `users.xml`, and that takes no change by statements: CREATE USER is refused.

What is done about it. In the engine, whatever keeps the users of `users.xml` has a second storage inside, in memory,
which it reads the file into, and which takes changes like the storage of a server's `local_directory`. So this program
looks for both objects in its own memory and turns the pointers to the outer one to the inner one. They are found by their
virtual tables, and these by the names of their types; what it finds has to be what it looks for, and alone, or it ends
and says so. No code of the engine is changed: its parser, its checks of rights and logins, its sessions and its system
tables are ClickHouse's own. The storage calls itself `local_directory`, as on a server that is set up for SQL users.
With --read-only it is left as it was: a server whose users are in a configuration file.

What it is not. It is not the program clickhouse-server: users are on no disk and end with the process, there is no
replication of them, and no TLS. Nothing but tests and benchmarks on loopback may rely on it.
"""

import ctypes
import importlib.util
import mmap
import os
import re
import signal
import struct
import sys
import threading
import time
import urllib.request

LIBRARY = "chdb/_chdb.abi3.so"
NAME = b"local_directory"
# A libc++ string of up to 22 bytes is where it is, with its length behind it.
SHORT = 22
# A shared_ptr made by make_shared: what counts its owners is this far before the object.
COUNTED = 24
# So far the storage inside is looked for.
MOST_BYTES = 512
PAGE = mmap.PAGESIZE
MOST_PAGES = 4096

# Served until the process ends: the statement that opened the ports must not return.
STATEMENTS = """
SYSTEM START LISTEN HTTP;
SYSTEM START LISTEN TCP;
INSERT INTO FUNCTION file('{folder}/ports.new', 'TSV')
  SELECT getServerPort('http_port'), getServerPort('tcp_port');
SELECT sleepEachRow(1) FROM numbers(1000000000) SETTINGS max_block_size = 1 FORMAT Null
"""


def fail(why):
    print(f"clickhouse.py: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def load():
    """The library, without the package's own module, which starts an engine."""
    path = next(found for at in sys.path if os.path.exists(found := os.path.join(at, LIBRARY)))
    spec = importlib.util.spec_from_file_location("_chdb", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return os.path.realpath(path), module


class Memory:
    """The memory of this process, read so that a page which has gone is no fault."""

    def __init__(self):
        self.file = open("/proc/self/mem", "rb", 0)
        # What is looked through is copied here, and here alone, in shared memory: nobody takes it for the heap.
        self.copy = mmap.mmap(-1, (MOST_PAGES + 1) * PAGE)

    def read(self, at, length):
        self.file.seek(at)
        return self.file.read(length)

    def word(self, at):
        return struct.unpack("<Q", self.read(at, 8))[0]

    def maps(self):
        with open("/proc/self/maps") as lines:
            text = lines.read()
        for line in text.splitlines():
            start, end, rights, path = re.match(r"(\w+)-(\w+) (\S+) \S+ \S+ \S+\s*(.*)", line).groups()
            yield int(start, 16), int(end, 16), rights, path

    def find_in(self, at, length, wanted, step):
        """Where a text begins in a piece of memory of at most what is copied at once."""
        try:
            self.file.seek(at)
            length = self.file.readinto(memoryview(self.copy)[: length + len(wanted) - 1])
        except OSError:
            return
        found = self.copy.find(wanted, 0, length)
        while found >= 0:
            if found % step == 0:
                yield at + found
            found = self.copy.find(wanted, found + 1, length)

    def pieces(self, start, end):
        for at in range(start, end, MOST_PAGES * PAGE):
            yield at, min(end - at, MOST_PAGES * PAGE)

    def find_in_section(self, section, wanted, step):
        start, length = section
        for at, size in self.pieces(start, start + length):
            yield from self.find_in(at, size, wanted, step)

    def find_in_heap(self, wanted):
        """Words in the private memory that is really there: allocators reserve far more."""
        with open("/proc/self/pagemap", "rb", 0) as pages:
            for start, end, rights, path in self.maps():
                is_heap = not path or path.startswith("[anon") or path == "[heap]"
                if not rights.startswith("rw") or not is_heap:
                    continue
                pages.seek(start // PAGE * 8)
                there = pages.read((end - start) // PAGE * 8)[7::8]
                # Present, or in swap.
                for run in re.finditer(rb"[\x40-\xff]+", there):
                    for at, size in self.pieces(start + run.start() * PAGE, start + run.end() * PAGE):
                        yield from self.find_in(at, size, wanted, 8)


def sections(memory, path):
    """Where the sections of a loaded library are, and how long."""
    with open(path, "rb") as file:
        head = file.read(64)
        (table,) = struct.unpack_from("<Q", head, 40)
        count, of_names = struct.unpack_from("<HH", head, 60)
        file.seek(table)
        headers = [struct.unpack("<IIQQQQ24x", file.read(64)) for _ in range(count)]
        file.seek(headers[of_names][4])
        names = file.read(headers[of_names][5])
    base = min(start for start, _, _, mapped in memory.maps() if mapped == path)
    named = lambda at: names[at : names.index(b"\0", at)].decode()
    return {named(header[0]): (base + header[3], header[5]) for header in headers}


def word(number):
    return struct.pack("<Q", number)


def only(what, found):
    found = list(found)
    if len(found) != 1:
        fail(f"there are {len(found)} of {what}, and not one: this is no engine that this program knows")
    return found[0]


def virtual_table(memory, parts, type_name):
    """A class by the name of its type: name, type, table of its functions."""
    texts, tables = parts[".rodata"], parts[".data.rel.ro"]
    found = []
    for name in list(memory.find_in_section(texts, type_name + b"\0", 1)):
        for points_at_name in list(memory.find_in_section(tables, word(name), 8)):
            for points_at_type in list(memory.find_in_section(tables, word(points_at_name - 8), 8)):
                # The table of the class itself, and of none that it derives from: at no offset.
                if memory.word(points_at_type - 8) == 0:
                    found.append(points_at_type + 8)
    return only(type_name.decode(), found)


def make_writable(memory, parts):
    """Puts the storage in memory into the place of the one that reads the file."""
    outer_table = virtual_table(memory, parts, b"N2DB24UsersConfigAccessStorageE")
    inner_table = virtual_table(memory, parts, b"N2DB19MemoryAccessStorageE")
    pairs = []
    for outer in list(memory.find_in_heap(word(outer_table))):
        if not memory.read(outer + 8, 10).startswith(b"users_xml\0"):
            continue
        inside = range(outer + 8, outer + MOST_BYTES, 8)
        pairs += [(outer, inner) for inner in inside if memory.word(inner) == inner_table]
    outer, inner = only("users_xml with a storage in memory", pairs)
    if not memory.read(inner + 8, 10).startswith(b"users_xml\0"):
        fail("the storage in memory has another name")
    # The inner one is a part of the outer one, whose owners go on counting for both.
    owners = list(memory.find_in_heap(word(outer) + word(outer - COUNTED)))
    if not owners:
        fail("nobody owns users_xml")
    ctypes.memmove(inner + 8, NAME.ljust(SHORT + 1, b"\0") + bytes([len(NAME)]), SHORT + 2)
    for owner in owners:
        ctypes.memmove(owner, word(inner), 8)


def forget_default(ports):
    """Drops who let this program in, without a password: the others have theirs."""
    with open(ports) as file:
        http = file.read().split()[0]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.open(f"http://127.0.0.1:{http}/", b"DROP USER default", 10).read()


def serve(engine, folder):
    try:
        engine.query(STATEMENTS.format(folder=folder), "TSV", path=folder + "/data")
    except Exception as error:  # Whatever it is, it is told.
        fail(error)
    fail("the engine has ended")


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    folder = os.path.abspath(sys.argv[1])
    # It reads ./config.xml.
    os.chdir(folder)
    path, engine = load()
    threading.Thread(target=serve, args=(engine, folder), daemon=True).start()
    new = folder + "/ports.new"
    while not (os.path.exists(new) and os.path.getsize(new)):
        time.sleep(0.01)
    if "--read-only" not in sys.argv[2:]:
        memory = Memory()
        make_writable(memory, sections(memory, path))
        forget_default(new)
    os.rename(new, folder + "/ports")
    # The engine has handlers of its own.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()


main()
