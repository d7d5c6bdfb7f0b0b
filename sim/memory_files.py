"""Files of the simulated world: in memory, since a run reaches for no real one."""

from __future__ import annotations

from io import BytesIO
from typing import IO, Literal


class MemoryFolder:
    """A folder with files."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def file(self, name: str) -> MemoryFile:
        """The file *name*, whether it is there or not."""
        return MemoryFile(self, name)


class MemoryFile:
    """A file's name and what lies under it, as ``tools.ports.File`` says."""

    def __init__(self, folder: MemoryFolder, name: str) -> None:
        self._folder = folder
        self.name = name

    def __str__(self) -> str:
        return self.name

    def exists(self) -> bool:
        """See ``File``."""
        return self.name in self._folder.files

    def open(self, mode: Literal["rb", "wb"]) -> IO[bytes]:
        """See ``File``."""
        if mode == "wb":
            return _Written(self._folder.files, self.name)
        if not self.exists():
            raise FileNotFoundError(2, "No such file or directory", self.name)
        return BytesIO(self._folder.files[self.name])

    def with_name(self, name: str, /) -> MemoryFile:
        """See ``File``."""
        return MemoryFile(self._folder, name)

    def rename(self, target: MemoryFile, /) -> MemoryFile:
        """See ``File``."""
        self._folder.files[target.name] = self._folder.files.pop(self.name)
        return target

    def unlink(self, missing_ok: bool = False) -> None:
        """See ``File``."""
        if self.exists() or not missing_ok:
            del self._folder.files[self.name]


class _Written(BytesIO):
    """What is written lies under its name once it is closed."""

    def __init__(self, files: dict[str, bytes], name: str) -> None:
        super().__init__()
        self._files, self._name = files, name
        files[name] = b""

    def close(self) -> None:
        if not self.closed:
            self._files[self._name] = self.getvalue()
        super().close()
