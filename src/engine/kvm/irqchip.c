/* Interrupts and doorbells of the KVM engine. Linux Documentation/virt/kvm/api.rst, KVM_SET_GSI_ROUTING,
 * KVM_SIGNAL_MSI, KVM_IOEVENTFD, KVM_IRQFD, KVM_CAP_SPLIT_IRQCHIP, KVM_EXIT_IOAPIC_EOI.
 *
 * Theory of operation. The local APICs are the kernel's; the I/O APIC is ours and speaks in messages, so
 * KVM_SIGNAL_MSI is all that is needed to interrupt. The way back, the end of a level-triggered interrupt, is
 * reported by the kernel (KVM_EXIT_IOAPIC_EOI) only for vectors that it finds in the routing table, among the
 * first KVM_LEVEL_ROUTES numbers and marked level. So the first time that a level-triggered message is sent,
 * it is put into the table. Nobody sends anything through that entry; it is there to be found. Changing the
 * table makes the kernel wait for all readers, which is why entries stay: a guest sends few different
 * messages. When the places are used up, one whose interrupt is not in service is given up: were it in
 * service, its end would be lost and the pin would be stuck. An I/O APIC has 24 pins, so there is always one
 * that is not.
 *
 * An irqfd needs a route too; those have the numbers after the level ones, which the kernel does not look
 * through. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_priv.h"

#define MSI_DATA_VECTOR 0xffu
#define MSI_DATA_LEVEL 0x8000u /* Intel SDM volume 3 (2023-12), 11.11.2 */

_Static_assert(KVM_LEVEL_ROUTES > 24, "more level routes than an I/O APIC has pins");

bool kvm_irqchip_make(struct engine_vm *vm, struct yado_error *err)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { KVM_LEVEL_ROUTES } };

    if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap) < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno,
                             "kvm: cannot make the local APICs (KVM_CAP_SPLIT_IRQCHIP)");
    return true;
}

void kvm_irqchip_unmake(struct engine_vm *vm)
{
    free(vm->routes.irqfds);
    pthread_mutex_destroy(&vm->routes.lock);
}

static void entry_add(struct kvm_irq_routing *table, unsigned gsi, const struct kvm_route *r)
{
    struct kvm_irq_routing_entry *e = &table->entries[table->nr++];

    *e = (struct kvm_irq_routing_entry){ .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };
    e->u.msi.address_lo = (uint32_t)r->addr;
    e->u.msi.address_hi = (uint32_t)(r->addr >> 32);
    e->u.msi.data = r->data;
}

/* Hands the kernel the whole table. With the lock held. */
static bool table_write(struct engine_vm *vm, struct yado_error *err)
{
    struct kvm_routes *rs = &vm->routes;
    struct kvm_irq_routing *table = calloc(1, sizeof(*table) + rs->used * sizeof(table->entries[0]));
    int rc;

    if (!table)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    for (unsigned i = 0; i < KVM_LEVEL_ROUTES; i++) {
        if (rs->level[i].used)
            entry_add(table, i, &rs->level[i]);
    }
    for (unsigned i = 0; rs->irqfds && i < KVM_IRQFD_ROUTES; i++) {
        if (rs->irqfds[i].used)
            entry_add(table, KVM_LEVEL_ROUTES + i, &rs->irqfds[i]);
    }
    rc = ioctl(vm->fd, KVM_SET_GSI_ROUTING, table);
    if (rc < 0)
        err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_SET_GSI_ROUTING with %u routes", table->nr);
    free(table);
    return rc == 0;
}

/* ---- messages ---- */

static struct kvm_route *level_find(struct kvm_routes *rs, uint64_t addr, uint32_t data)
{
    for (unsigned i = 0; i < KVM_LEVEL_ROUTES; i++) {
        if (rs->level[i].used && rs->level[i].addr == addr && rs->level[i].data == data)
            return &rs->level[i];
    }
    return NULL;
}

/* A free place, or one that can be given up. */
static struct kvm_route *level_place(struct kvm_routes *rs)
{
    struct kvm_route *r = NULL;

    for (unsigned i = 0; i < KVM_LEVEL_ROUTES; i++) {
        r = &rs->level[(rs->level_next + i) % KVM_LEVEL_ROUTES];
        if (!r->used || !r->in_service) {
            rs->level_next = (unsigned)(r - rs->level + 1) % KVM_LEVEL_ROUTES;
            break;
        }
    }
    return r;
}

static void level_note(struct engine_vm *vm, uint64_t addr, uint32_t data)
{
    struct kvm_routes *rs = &vm->routes;
    struct yado_error err = YADO_ERROR_INIT;
    struct kvm_route *r;

    pthread_mutex_lock(&rs->lock);
    r = level_find(rs, addr, data);
    if (!r) {
        r = level_place(rs);
        rs->used += r->used ? 0 : 1;
        *r = (struct kvm_route){ .addr = addr, .data = data, .used = true };
        if (!table_write(vm, &err))
            log_line(vm->cfg.log, LOG_IRQ, "%s", err.message);
    }
    r->in_service = true;
    pthread_mutex_unlock(&rs->lock);
}

void kvm_eoi_seen(struct engine_vm *vm, unsigned vector)
{
    struct kvm_routes *rs = &vm->routes;

    pthread_mutex_lock(&rs->lock);
    for (unsigned i = 0; i < KVM_LEVEL_ROUTES; i++) {
        if ((rs->level[i].data & MSI_DATA_VECTOR) == vector)
            rs->level[i].in_service = false;
    }
    pthread_mutex_unlock(&rs->lock);
}

void kvm_msi_send(struct engine_vm *vm, uint64_t addr, uint32_t data)
{
    struct kvm_msi msi = { .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data };

    if (data & MSI_DATA_LEVEL)
        level_note(vm, addr, data);
    atomic_fetch_add_explicit(&vm->messages, 1, memory_order_relaxed);
    /* 0: the guest blocks it, as a real one may be lost. An error: a message that no local APIC takes, the
     * guest's doing. */
    if (ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) < 0)
        log_line(vm->cfg.log, LOG_IRQ, "kvm: message %#llx data %#x is not taken: %s",
                 (unsigned long long)addr, data, strerror(errno));
}

/* ---- irqfd ---- */

static struct kvm_route *irqfd_find(struct kvm_routes *rs, int fd)
{
    for (unsigned i = 0; rs->irqfds && i < KVM_IRQFD_ROUTES; i++) {
        if (rs->irqfds[i].used && rs->irqfds[i].fd == fd)
            return &rs->irqfds[i];
    }
    return NULL;
}

static bool irqfd_change(struct engine_vm *vm, const struct kvm_route *r, uint32_t flags,
                         struct yado_error *err)
{
    struct kvm_irqfd arg = { .fd = (uint32_t)r->fd,
                             .gsi = KVM_LEVEL_ROUTES + (uint32_t)(r - vm->routes.irqfds),
                             .flags = flags };

    if (ioctl(vm->fd, KVM_IRQFD, &arg) < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_IRQFD for descriptor %d", r->fd);
    return true;
}

static bool irqfd_add_locked(struct engine_vm *vm, int fd, uint64_t addr, uint32_t data,
                             struct yado_error *err)
{
    struct kvm_routes *rs = &vm->routes;
    struct kvm_route *r = NULL;

    if (!rs->irqfds)
        rs->irqfds = calloc(KVM_IRQFD_ROUTES, sizeof(*rs->irqfds));
    for (unsigned i = 0; rs->irqfds && !r && i < KVM_IRQFD_ROUTES; i++) {
        if (!rs->irqfds[i].used)
            r = &rs->irqfds[i];
    }
    if (!r)
        return err_set(err, YADO_ERR_HOST, "kvm: no room for one more interrupt descriptor (%d at most)",
                       KVM_IRQFD_ROUTES);
    *r = (struct kvm_route){ .addr = addr, .data = data, .used = true, .fd = fd };
    rs->used++;
    if (table_write(vm, err) && irqfd_change(vm, r, 0, err)) {
        rs->irqfds_used++;
        return true;
    }
    r->used = false;
    rs->used--;
    return false;
}

bool kvm_irqfd_set(struct engine_vm *vm, int fd, uint64_t addr, uint32_t data, struct yado_error *err)
{
    struct kvm_route *r;
    bool ok;

    if (!vm->caps.has_irqfd)
        return err_set(err, YADO_ERR_UNSUPPORTED, "kvm: this kernel's KVM has no interrupt descriptors");
    pthread_mutex_lock(&vm->routes.lock);
    r = irqfd_find(&vm->routes, fd);
    if (r) {
        r->addr = addr;
        r->data = data;
        ok = table_write(vm, err);
    } else {
        ok = irqfd_add_locked(vm, fd, addr, data, err);
    }
    pthread_mutex_unlock(&vm->routes.lock);
    return ok;
}

void kvm_irqfd_drop(struct engine_vm *vm, int fd)
{
    struct kvm_route *r;

    pthread_mutex_lock(&vm->routes.lock);
    r = irqfd_find(&vm->routes, fd);
    if (r) {
        irqfd_change(vm, r, KVM_IRQFD_FLAG_DEASSIGN, NULL);
        r->used = false; /* the table forgets it when it is next written */
        vm->routes.used--;
        vm->routes.irqfds_used--;
    }
    pthread_mutex_unlock(&vm->routes.lock);
}

/* ---- doorbells ---- */

/* One for writes of any width is decided by address alone, which VMX can do without decoding the instruction.
 * Where the kernel cannot: the width of a virtio notification, 2. */
static struct kvm_ioeventfd doorbell_arg(const struct engine_vm *vm, const struct engine_doorbell *bell)
{
    struct kvm_ioeventfd arg = { .addr = bell->addr, .len = bell->width, .fd = bell->fd };

    if (!bell->width && !vm->caps.has_any_width)
        arg.len = 2;
    if (bell->is_port)
        arg.flags |= KVM_IOEVENTFD_FLAG_PIO;
    if (bell->match_data) {
        arg.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
        arg.datamatch = bell->data;
    }
    return arg;
}

bool kvm_doorbell_add(struct engine_vm *vm, const struct engine_doorbell *bell, struct yado_error *err)
{
    struct kvm_ioeventfd arg = doorbell_arg(vm, bell);

    if (!vm->caps.has_ioeventfd)
        return err_set(err, YADO_ERR_UNSUPPORTED, "kvm: this kernel's KVM has no doorbells");
    if (ioctl(vm->fd, KVM_IOEVENTFD, &arg) < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_IOEVENTFD at %#llx",
                             (unsigned long long)bell->addr);
    atomic_fetch_add(&vm->doorbells, 1);
    return true;
}

void kvm_doorbell_drop(struct engine_vm *vm, const struct engine_doorbell *bell)
{
    struct kvm_ioeventfd arg = doorbell_arg(vm, bell);

    arg.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    if (ioctl(vm->fd, KVM_IOEVENTFD, &arg) == 0)
        atomic_fetch_sub(&vm->doorbells, 1);
}
