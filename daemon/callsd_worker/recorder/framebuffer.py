# SPDX-License-Identifier: Apache-2.0
"""Reads pictures from a display's memory.

Xvfb keeps its screen in a file, which is mapped here: pictures are not sent or copied before their
colours are converted.
"""

import ctypes
import mmap
import struct

from av import VideoFrame

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.native import load


HEADER = struct.Struct(">25I")
"""Of an X window dump. Source: X11/XWDFile.h."""
_HEADER_SIZE, _WIDTH, _HEIGHT, _BITS_PER_PIXEL, _BYTES_PER_LINE, _COLORS = 0, 4, 5, 11, 12, 19
COLOR_BYTES = 12

BITS_PER_PIXEL = 32
PIXEL_FORMAT = "yuv420p"

_PLANE = (ctypes.c_void_p, ctypes.c_int)
"""Address, and bytes from line to line. Source: libyuv/convert.h."""


class Framebuffer:
    """The screen of the display that the environment names."""

    def __init__(self, descriptor: int) -> None:
        """Map the screen's file; raises CAPTURE_UNAVAILABLE.

        It must be open for writing, too, though nothing is written.
        """
        self._server = _Server()
        self._convert = load("libyuv.so.0").ARGBToI420
        self._convert.argtypes = [*_PLANE, *_PLANE * 3, ctypes.c_int, ctypes.c_int]
        memory = mmap.mmap(descriptor, 0)
        header = HEADER.unpack_from(memory)
        if header[_BITS_PER_PIXEL] != BITS_PER_PIXEL:
            raise RecordingError(
                Reason.CAPTURE_UNAVAILABLE,
                f"the display has {header[_BITS_PER_PIXEL]} bits for each pixel, not 32",
            )
        self.width, self.height = header[_WIDTH], header[_HEIGHT]
        self._line_bytes = header[_BYTES_PER_LINE]
        offset = header[_HEADER_SIZE] + header[_COLORS] * COLOR_BYTES
        size = self._line_bytes * self.height
        self._pixels = (ctypes.c_char * size).from_buffer(memory, offset)

    def frame(self) -> VideoFrame:
        """A frame that pictures can be read into."""
        return VideoFrame(self.width, self.height, PIXEL_FORMAT)

    def read_into(self, frame: VideoFrame) -> None:
        """Read the current picture, without anything half painted.

        Colours: BT.601, limited range. Raises CAPTURE_UNAVAILABLE when the display is gone.
        """
        planes = [number for p in frame.planes for number in (p.buffer_ptr, p.line_size)]
        source = ctypes.addressof(self._pixels)
        self._server.grab()
        try:
            self._convert(source, self._line_bytes, *planes, self.width, self.height)
        finally:
            self._server.ungrab()


class _Cookie(ctypes.Structure):
    _fields_ = (("sequence", ctypes.c_uint),)


class _Server:
    """The display server. While it is grabbed it executes no other program's requests."""

    def __init__(self) -> None:
        xcb = load("libxcb.so.1")
        xcb.xcb_connect.restype = ctypes.c_void_p
        xcb.xcb_connect.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        for name in ("xcb_connection_has_error", "xcb_flush"):
            getattr(xcb, name).argtypes = [ctypes.c_void_p]
        for name in ("xcb_grab_server", "xcb_get_input_focus", "xcb_ungrab_server"):
            getattr(xcb, name).restype = _Cookie
            getattr(xcb, name).argtypes = [ctypes.c_void_p]
        xcb.xcb_get_input_focus_reply.restype = ctypes.c_void_p
        xcb.xcb_get_input_focus_reply.argtypes = [ctypes.c_void_p, _Cookie, ctypes.c_void_p]
        self._xcb = xcb
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [ctypes.c_void_p]
        self._connection = xcb.xcb_connect(None, None)
        if xcb.xcb_connection_has_error(self._connection):
            raise RecordingError(Reason.CAPTURE_UNAVAILABLE, "the display does not answer")

    def grab(self) -> None:
        self._xcb.xcb_grab_server(self._connection)
        # The grab has no answer of its own: after the answer to any later request it holds.
        asked = self._xcb.xcb_get_input_focus(self._connection)
        answer = self._xcb.xcb_get_input_focus_reply(self._connection, asked, None)
        if answer is None:
            raise RecordingError(Reason.CAPTURE_UNAVAILABLE, "the display has gone")
        self._free(answer)

    def ungrab(self) -> None:
        self._xcb.xcb_ungrab_server(self._connection)
        self._xcb.xcb_flush(self._connection)
