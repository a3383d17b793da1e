/* The state machine of a machine. The guest's own ends (power off, crash) are not verbs: they lead from
 * RUNNING or PAUSED to STOPPED or ERROR and are made by the control thread in machine.c. */
#include "api/state.h"

#include "util/base.h"

/* request_stop asks the guest and leaves the state to it, so all its states are the same. */
static const struct state_move moves[] = {
    { VERB_START, YADO_STATE_STOPPED, YADO_STATE_STARTING, YADO_STATE_RUNNING, YADO_STATE_ERROR },
    { VERB_START, YADO_STATE_ERROR, YADO_STATE_STARTING, YADO_STATE_RUNNING, YADO_STATE_ERROR },
    { VERB_PAUSE, YADO_STATE_RUNNING, YADO_STATE_PAUSING, YADO_STATE_PAUSED, YADO_STATE_RUNNING },
    { VERB_RESUME, YADO_STATE_PAUSED, YADO_STATE_RESUMING, YADO_STATE_RUNNING, YADO_STATE_PAUSED },
    { VERB_STOP, YADO_STATE_RUNNING, YADO_STATE_STOPPING, YADO_STATE_STOPPED, YADO_STATE_ERROR },
    { VERB_STOP, YADO_STATE_PAUSED, YADO_STATE_STOPPING, YADO_STATE_STOPPED, YADO_STATE_ERROR },
    { VERB_SAVE, YADO_STATE_PAUSED, YADO_STATE_SAVING, YADO_STATE_PAUSED, YADO_STATE_PAUSED },
    { VERB_RESTORE, YADO_STATE_STOPPED, YADO_STATE_RESTORING, YADO_STATE_PAUSED, YADO_STATE_STOPPED },
    { VERB_REQUEST_STOP, YADO_STATE_RUNNING, YADO_STATE_RUNNING, YADO_STATE_RUNNING, YADO_STATE_RUNNING },
};

const struct state_move *state_move_find(enum verb verb, enum yado_state from)
{
    for (size_t i = 0; i < array_size(moves); i++) {
        if (moves[i].verb == verb && moves[i].from == from)
            return &moves[i];
    }
    return NULL;
}

const char *verb_name(enum verb verb)
{
    static const char *const names[VERB_COUNT] = { "start",        "pause", "resume", "stop",
                                                   "request_stop", "save",  "restore" };

    return (unsigned)verb < VERB_COUNT ? names[verb] : "?";
}

const char *yado_state_name(enum yado_state state)
{
    static const char *const names[] = { "stopped", "running",  "paused",   "error",  "starting",
                                         "pausing", "resuming", "stopping", "saving", "restoring" };

    return (unsigned)state < array_size(names) ? names[state] : "unknown";
}

const char *yado_stop_reason_name(enum yado_stop_reason reason)
{
    static const char *const names[] = { "none",  "stopped by the host", "power off", "reset",
                                         "panic", "triple fault",        "failure",   "debug exit" };

    return (unsigned)reason < array_size(names) ? names[reason] : "unknown";
}
