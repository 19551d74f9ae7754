//! The probe of a replica: `abide-probe tcp PORT UPTIME` or `abide-probe http PORT UPTIME HOST PATH`.
//!
//! It exits with 0 if process 1 has run for UPTIME milliseconds and the port answers, and with 1 otherwise. Swarm
//! itself has no such delay, and would stop the previous replicas at the first good answer. Docker ends a probe that
//! hangs.
//!
//! Freestanding, so that it runs in every image and fits into a config. `build.rs` compiles it.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(1)
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call probe_main");
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl probe_main");

#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const GETSOCKNAME: usize = 51;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const OPENAT: usize = 56;
    pub const CLOSE: usize = 57;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const SOCKET: usize = 198;
    pub const CONNECT: usize = 203;
    pub const GETSOCKNAME: usize = 204;
}

const AF_INET: u16 = 2;
const STREAM: usize = 1;
const DATAGRAM: usize = 2;
const AT_FDCWD: isize = -100;
/// Ticks in a second, in every interface of the kernel.
const TICKS: u64 = 100;

fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") 0,
            out("rcx") _, out("r11") _);
    }
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") 0);
    }
    result
}

fn exit(code: usize) -> ! {
    loop {
        call(number::EXIT_GROUP, code, 0, 0);
    }
}

// What the compiler may call for arrays. Volatile, or the loops would become calls of themselves.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    let mut at = 0;
    while at < count {
        unsafe { to.add(at).write_volatile(byte as u8) };
        at += 1;
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    let mut at = 0;
    while at < count {
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        at += 1;
    }
    to
}

/// An socket address.
#[repr(C)]
struct InternetAddress {
    family: u16,
    port: [u8; 2],
    host: [u8; 4],
    zero: [u8; 8],
}

#[unsafe(no_mangle)]
unsafe extern "C" fn probe_main(stack: *const usize) -> ! {
    let count = unsafe { *stack };
    let arguments = unsafe { stack.add(1) }.cast::<*const u8>();
    let argument = |index: usize| if index < count { unsafe { *arguments.add(index) } } else { core::ptr::null() };
    let kind = argument(1);
    let (Some(port), Some(uptime)) = (number_at(argument(2)), number_at(argument(3))) else { exit(1) };
    if kind.is_null() || !has_run_for(uptime) {
        exit(1);
    }
    let is_http = unsafe { *kind } == b'h';
    let Some(socket) = connect(port as u16) else { exit(1) };
    let answers = !is_http || asks(socket, argument(4), argument(5));
    exit(usize::from(!answers))
}

/// Reads a number that ends at the first other byte.
fn number_at(text: *const u8) -> Option<u64> {
    if text.is_null() {
        return None;
    }
    let (mut value, mut at) = (0_u64, 0);
    loop {
        let byte = unsafe { *text.add(at) };
        if !byte.is_ascii_digit() {
            return if at == 0 { None } else { Some(value) };
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        at += 1;
    }
}

fn length(text: *const u8) -> usize {
    let mut length = 0;
    // Volatile, or the loop would become a call of the C library.
    while !text.is_null() && unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Reads the start of a file into `buffer`, which keeps a zero at its end.
fn read_file(path: &[u8], buffer: *mut u8, size: usize) -> bool {
    let file = call(number::OPENAT, AT_FDCWD as usize, path.as_ptr() as usize, 0);
    if file < 0 {
        return false;
    }
    let read = call(number::READ, file as usize, buffer as usize, size - 1);
    call(number::CLOSE, file as usize, 0, 0);
    if read <= 0 {
        return false;
    }
    unsafe { *buffer.add(read as usize) = 0 };
    true
}

/// Whether process 1 was started at least this many milliseconds ago.
fn has_run_for(uptime: u64) -> bool {
    if uptime == 0 {
        return true;
    }
    let mut buffer = [0_u8; 1024];
    let text = buffer.as_mut_ptr();
    if !read_file(b"/proc/uptime\0", text, 1024) {
        return false;
    }
    let Some(seconds) = number_at(text) else { return false };
    if !read_file(b"/proc/1/stat\0", text, 1024) {
        return false;
    }
    // The name of the process may hold anything, but ends with the last bracket.
    let (mut at, mut end) = (0, 0);
    while unsafe { *text.add(at) } != 0 {
        if unsafe { *text.add(at) } == b')' {
            end = at;
        }
        at += 1;
    }
    // The start is the 20th word after the name.
    let (mut words, mut at) = (0, end + 1);
    while words < 20 {
        match unsafe { *text.add(at) } {
            0 => return false,
            b' ' => words += 1,
            _ => {}
        }
        at += 1;
    }
    let Some(started) = number_at(unsafe { text.add(at) }) else { return false };
    seconds.wrapping_mul(1000).saturating_sub(started.wrapping_mul(1000) / TICKS) >= uptime
}

fn socket(kind: usize) -> Option<usize> {
    let socket = call(number::SOCKET, AF_INET as usize, kind, 0);
    if socket < 0 { None } else { Some(socket as usize) }
}

fn connected(socket: usize, address: &InternetAddress) -> bool {
    call(number::CONNECT, socket, core::ptr::from_ref(address) as usize, size_of::<InternetAddress>()) >= 0
}

/// Connects to the container's own address, as other containers do: a program that listens on loopback only cannot be
/// reached. Without a network, there is only loopback.
fn connect(port: u16) -> Option<usize> {
    let mut own = InternetAddress { family: AF_INET, port: [0, 9], host: [192, 0, 2, 1], zero: [0; 8] };
    let mut host = [127, 0, 0, 1];
    // Nothing is sent: the kernel only chooses the address from which it would.
    if let Some(datagram) = socket(DATAGRAM)
        && connected(datagram, &own)
    {
        let mut size = size_of::<InternetAddress>() as u32;
        let to = core::ptr::from_mut(&mut own) as usize;
        if call(number::GETSOCKNAME, datagram, to, core::ptr::from_mut(&mut size) as usize) >= 0 {
            host = own.host;
        }
    }
    let to = InternetAddress { family: AF_INET, port: port.to_be_bytes(), host, zero: [0; 8] };
    let stream = socket(STREAM)?;
    if connected(stream, &to) { Some(stream) } else { None }
}

fn write(socket: usize, text: *const u8, size: usize) -> bool {
    let mut written = 0;
    while written < size {
        let more = call(number::WRITE, socket, unsafe { text.add(written) } as usize, size - written);
        if more <= 0 {
            return false;
        }
        written += more as usize;
    }
    true
}

/// Whether a `GET` is answered with a status from 200 to 399.
fn asks(socket: usize, host: *const u8, path: *const u8) -> bool {
    let parts: [(*const u8, usize); 5] = [
        (b"GET ".as_ptr(), 4),
        (path, length(path)),
        (b" HTTP/1.1\r\nHost: ".as_ptr(), 17),
        (host, length(host)),
        (b"\r\nUser-Agent: abide-probe\r\nConnection: close\r\n\r\n".as_ptr(), 48),
    ];
    for (text, size) in parts {
        if !write(socket, text, size) {
            return false;
        }
    }
    // `HTTP/1.1 200`
    let mut answer = [0_u8; 16];
    let start = answer.as_mut_ptr();
    let mut read = 0;
    while read < 12 {
        let more = call(number::READ, socket, unsafe { start.add(read) } as usize, 12 - read);
        if more <= 0 {
            return false;
        }
        read += more as usize;
    }
    matches!(number_at(unsafe { start.add(9) }), Some(200..=399))
}
