# A thin front for meson and the scripts under tools/. `make help` lists what there is.
#
# Another guest than ours, for run, test and bench: make run KERNEL=vmlinuz INITRD=initrd.img DISK=disk.img
# More variables: BUILD=build  CPUS=2  MEMORY=2G  CMDLINE="console=hvc0 root=/dev/vda rw"  USER_DATA=FILE  META_DATA=FILE
#                 NETWORK_CONFIG=FILE  KEEP=1

BUILD ?= build
PREFIX ?= /usr/local
IMAGE := $(BUILD)/image
TIMES ?= 1
export BUILD KERNEL INITRD DISK CPUS MEMORY CMDLINE USER_DATA META_DATA NETWORK_CONFIG KEEP FORCE MIRROR

.PHONY: all image run test test-nested check check-style apple-check sign bench bench-net install clean distclean sanitize sanitize-threads help

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

help:
	@echo 'make               the library, the command build/yado and the example build/simplevm'
	@echo 'make run           boots a Debian guest to its login on this terminal (makes the image first)'
	@echo 'make image         build/image/{vmlinuz,initrd.img,disk.img}; FORCE=1 makes it anew'
	@echo 'make test          every test; make check: those that need no guest image (a minute or two)'
	@echo 'make test-nested   guests and CPU cases on real KVM semantics under QEMU (half an hour); TIMES=10 for each'
	@echo 'make sanitize      the tests that need no guest image, under ASan and UBSan, in build-asan/'
	@echo 'make sanitize-threads   the same without the CPU cases, under ThreadSanitizer, in build-tsan/'
	@echo 'make check-style   include levels, headers, formatting'
	@echo 'make apple-check   compiles and links the macOS side here, for arm64 and x86-64, into build/apple/'
	@echo 'make sign          on a Mac: signs build/yado and build/simplevm again (the build does it too)'
	@echo 'make bench         how fast guests are: the host, yado, QEMU (TCG), in build/bench/ (an hour; QUICK=1: ten minutes)'
	@echo '                   TIMES=3 rounds; ROWS=init,cpu1,... (ROWS=list names them); ENGINES=native,yado,tcg,kvm'
	@echo 'make bench-net     the network through NAT against QEMU'"'"'s'
	@echo 'make install       PREFIX=/usr/local DESTDIR='

$(BUILD)/build.ninja:
	@tools/install-packages build test
	@meson setup $(BUILD) --prefix $(PREFIX) $(MESON_ARGS)

# An image that was named by the user is not made by us.
image:
ifeq ($(KERNEL)$(INITRD)$(DISK),)
	@tools/make-image $(IMAGE)
endif

run: all image
	@tools/run-guest

test: all image
	@tools/run-tests

test-nested: all image
	@tools/install-packages nested
	@tests/nested/nested.py --times $(TIMES)

check: all
	@tools/run-tests --no-suite guest

sanitize:
	@tools/install-packages build test
	@test -e build-asan/build.ninja || meson setup build-asan -Db_sanitize=address,undefined -Db_lundef=false
	@ninja -C build-asan
	@BUILD=build-asan tools/run-tests --no-suite guest --no-suite nested

# Not the CPU cases: what they run is code that the translator makes, which no sanitizer sees.
sanitize-threads:
	@tools/install-packages build test
	@test -e build-tsan/build.ninja || meson setup build-tsan -Db_sanitize=thread -Db_lundef=false
	@ninja -C build-tsan
	@BUILD=build-tsan tools/run-tests --no-suite guest --no-suite nested --no-suite cpu

check-style:
	@tools/check-includes
	@tools/check-headers
	@tools/check-format

apple-check:
	@tools/install-packages build test
	@tools/apple-check $(BUILD)

sign:
	@tools/sign $(BUILD)/yado $(BUILD)/simplevm

bench: all
	@tools/install-packages bench image
	@bench/bench.py
	@test -n "$(QUICK)$(ROWS)$(ENGINES)" || $(MAKE) --no-print-directory bench-net

bench-net: all image
	@tools/install-packages bench
	@bench/net.py

install: all
	@meson install -C $(BUILD) --no-rebuild

clean:
	@test ! -e $(BUILD)/build.ninja || ninja -C $(BUILD) clean
	@rm -rf $(BUILD)/run

distclean:
	@rm -rf $(BUILD) build-asan build-tsan
