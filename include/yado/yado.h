/* libyado: creates and runs Linux virtual machines. Everything public in one include. */
#ifndef YADO_YADO_H
#define YADO_YADO_H

#include <yado/audio.h>
#include <yado/balloon.h>
#include <yado/base.h>
#include <yado/boot.h>
#include <yado/config.h>
#include <yado/console.h>
#include <yado/entropy.h>
#include <yado/error.h>
#include <yado/graphics.h>
#include <yado/host.h>
#include <yado/machine.h>
#include <yado/network.h>
#include <yado/platform.h>
#include <yado/seed.h>
#include <yado/share.h>
#include <yado/socket.h>
#include <yado/storage.h>

#endif
