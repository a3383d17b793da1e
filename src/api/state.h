/* The legal moves of a machine, in one table. Pure. */
#ifndef API_STATE_H
#define API_STATE_H

#include <yado/machine.h>

enum verb {
    VERB_START,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_STOP,
    VERB_REQUEST_STOP,
    VERB_SAVE,
    VERB_RESTORE,
    VERB_COUNT
};

struct state_move {
    enum verb verb;
    enum yado_state from;
    enum yado_state via;    /* while it is being done */
    enum yado_state to;     /* when it is done */
    enum yado_state failed; /* when it could not be done */
};

/* The move that `verb` makes in state `from`, NULL if it is not legal there. */
const struct state_move *state_move_find(enum verb verb, enum yado_state from);

const char *verb_name(enum verb verb);

/* Whether nothing runs and nothing is under way. */
static inline bool state_is_end(enum yado_state s)
{
    return s == YADO_STATE_STOPPED || s == YADO_STATE_ERROR;
}

#endif
