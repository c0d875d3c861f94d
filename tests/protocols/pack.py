"""Makes a wheel and an npm package in the directory that is its argument."""

import io
import pathlib
import sys
import tarfile
import zipfile

directory = pathlib.Path(sys.argv[1])

INFO = "locum_probe-1.0.dist-info"
FILES = {
    "locum_probe.py": "WORD = 'from the wheel'\n",
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: locum-probe\nVersion: 1.0\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
FILES[f"{INFO}/RECORD"] = "".join(f"{name},,\n" for name in [*FILES, f"{INFO}/RECORD"])
with zipfile.ZipFile(directory / "locum_probe-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in FILES.items():
        wheel.writestr(name, text)

MODULE = {
    "package/package.json": '{"name": "@scope/name", "version": "1.0.0", "main": "index.js"}\n',
    "package/index.js": "exports.word = 'from the tarball';\n",
}
with tarfile.open(directory / "name-1.0.0.tgz", "w:gz") as tarball:
    for name, text in MODULE.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(text)
        tarball.addfile(entry, io.BytesIO(text.encode()))
