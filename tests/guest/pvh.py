"""Tiny kernels made on the spot: ELF files with a PVH note whose 32-bit entry runs a few bytes of machine code.

They stand for "a kernel that is not in the project" and start in milliseconds, which makes them right for what is about
the command and not about Linux. Entry state: Linux, Documentation/x86/boot (PVH) and Xen's docs/misc/pvh.markdown:
32-bit protected mode, flat segments, paging off, %ebx -> hvm_start_info."""
import struct

LOAD = 0x100000
NOTE_PHYS32_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY

SPIN = b'\xeb\xfe'                      # jmp .
HALT = b'\xfa\xf4\xeb\xfd'              # cli; hlt; jmp back
# An empty IDT and an undefined instruction: #UD, #DF, shutdown.
TRIPLE_FAULT = (b'\x0f\x01\x1d' + struct.pack('<I', LOAD + 0x20)  # lidt [LOAD + 0x20]
                + b'\x0f\x0b').ljust(0x20, b'\x90') + b'\x00' * 6


def uart(text):
    """Writes text to the 16550 at 0x3f8, waiting for room before each byte."""
    code = b''
    for byte in text.encode():
        code += (b'\x66\xba\xfd\x03'        # mov dx, 0x3fd (line status)
                 b'\xec\xa8\x20\x74\xfb'    # in al, dx; test al, 0x20 (THR empty); jz back
                 b'\x66\xba\xf8\x03'        # mov dx, 0x3f8
                 b'\xb0' + bytes([byte]) +  # mov al, byte
                 b'\xee')                   # out dx, al
    return code


def kernel(code):
    """The bytes of an ELF64 file for x86-64 with one segment at LOAD that begins with the code."""
    note = struct.pack('<III4sI', 4, 4, NOTE_PHYS32_ENTRY, b'Xen\0', LOAD)
    headers = 64 + 2 * 56
    note_at = headers
    code_at = 0x1000
    ident = b'\x7fELF\x02\x01\x01' + b'\0' * 9
    elf = ident + struct.pack('<HHIQQQIHHHHHH', 2, 62, 1, LOAD, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack('<IIQQQQQQ', 1, 7, code_at, LOAD, LOAD, len(code), len(code), 0x1000)
    notes = struct.pack('<IIQQQQQQ', 4, 4, note_at, 0, 0, len(note), len(note), 4)
    return (elf + load + notes + note).ljust(code_at, b'\0') + code
