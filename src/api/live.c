/* What can be changed of a machine's devices while it runs or is paused. */
#include "api/config_priv.h"
#include "api/machine_priv.h"

/* Whether there is a run and its backend can do such a thing; else says so. */
static bool changeable(const struct backend *b, const char *what, bool can, struct yado_error *err)
{
    if (!b)
        return err_set(err, YADO_ERR_STATE, "%s can be changed while the machine runs or is paused", what);
    if (!can)
        return err_set(err, YADO_ERR_UNSUPPORTED, "this backend cannot change %s of a running machine", what);
    return true;
}

static bool forward_change(struct yado_machine *m, unsigned index, const struct yado_forward *forward,
                           bool add, struct yado_error *err)
{
    struct net_forward f = forward_of(forward);
    const struct backend_ops *ops;
    struct backend *b;
    bool ok;

    if (!forward_check(&f, err))
        return err_prepend(err, "network[%u]", index);
    b = machine_backend_enter(m, &ops);
    ok = changeable(b, "the forwards", ops->net_forward != NULL, err) &&
         ops->net_forward(b, index, &f, add, err);
    machine_backend_leave(m);
    return ok;
}

bool yado_machine_add_forward(struct yado_machine *machine, unsigned index,
                              const struct yado_forward *forward, struct yado_error *err)
{
    return forward_change(machine, index, forward, true, err);
}

bool yado_machine_remove_forward(struct yado_machine *machine, unsigned index,
                                 const struct yado_forward *forward, struct yado_error *err)
{
    return forward_change(machine, index, forward, false, err);
}

bool yado_machine_set_network_attachment(struct yado_machine *machine, unsigned index,
                                         struct yado_network_attachment *attachment, struct yado_error *err)
{
    struct spec_net *net = attachment ? &attachment->net : NULL;
    const struct backend_ops *ops;
    struct backend *b;
    bool ok = true;

    if (attachment && attachment->out_of_memory)
        ok = err_set(err, YADO_ERR_HOST, "network[%u]: out of memory", index);
    ok = ok && (!net || attachment_check(net, index, err));
    b = machine_backend_enter(machine, &ops);
    ok = ok && changeable(b, "the network", ops->net_attach != NULL, err) &&
         ops->net_attach(b, index, net ? &net->config : NULL, err);
    machine_backend_leave(machine);
    yado_network_attachment_free(attachment);
    return ok;
}

bool yado_machine_set_share(struct yado_machine *machine, unsigned index, struct yado_directory_share *share,
                            struct yado_error *err)
{
    const struct backend_ops *ops;
    struct backend *b;
    bool ok = share && !share->out_of_memory
                  ? share_check(&share->share, index, err)
                  : err_set(err, YADO_ERR_HOST, "shares[%u]: out of memory", index);

    b = machine_backend_enter(machine, &ops);
    ok = ok && changeable(b, "the shares", ops->share_set != NULL, err) &&
         ops->share_set(b, index, &share->share, err);
    machine_backend_leave(machine);
    yado_directory_share_free(share);
    return ok;
}
