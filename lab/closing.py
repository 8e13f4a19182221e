"""What must be ended ends with its `with` block, also after an exception: everything in the lab is one."""

from types import TracebackType
from typing import Self


class Closing:
    """Leaving the `with` block calls close()."""

    def close(self) -> None:
        """Ends what was started and removes what was made."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
