/* Numbers that the framework's methods take and give (macOS SDK headers; there is nothing else in them). */
#ifndef BACKEND_APPLE_VZ_VALUES_H
#define BACKEND_APPLE_VZ_VALUES_H

enum vz_error { /* VZErrorCode */
                VZ_ERROR_INTERNAL = 1,
                VZ_ERROR_INVALID_CONFIGURATION = 2,
                VZ_ERROR_INVALID_STATE = 3,
                VZ_ERROR_INVALID_STATE_TRANSITION = 4,
                VZ_ERROR_INVALID_DISK_IMAGE = 5,
                VZ_ERROR_LIMIT_EXCEEDED = 6,
                VZ_ERROR_NETWORK = 7,
                VZ_ERROR_OUT_OF_DISK_SPACE = 8,
                VZ_ERROR_OPERATION_CANCELLED = 9,
                VZ_ERROR_NOT_SUPPORTED = 10,
                VZ_ERROR_SAVE = 11,
                VZ_ERROR_RESTORE = 12,
                VZ_ERROR_NBD_NEGOTIATION_FAILED = 20001,
                VZ_ERROR_NBD_DISCONNECTED = 20002,
                VZ_ERROR_USB_CONTROLLER_NOT_FOUND = 30001,
                VZ_ERROR_DEVICE_ALREADY_ATTACHED = 30002,
                VZ_ERROR_DEVICE_INITIALIZATION_FAILURE = 30003,
                VZ_ERROR_DEVICE_NOT_FOUND = 30004,
};

enum vz_cache_mode { VZ_CACHE_AUTOMATIC = 0, VZ_CACHE_UNCACHED = 1, VZ_CACHE_CACHED = 2 };
enum vz_image_sync { VZ_IMAGE_SYNC_FULL = 1, VZ_IMAGE_SYNC_FSYNC = 2, VZ_IMAGE_SYNC_NONE = 3 };
enum vz_disk_sync { VZ_DISK_SYNC_FULL = 0, VZ_DISK_SYNC_NONE = 1 };
enum { VZ_EFI_STORE_ALLOW_OVERWRITE = 1 << 0 };
enum vz_rosetta { VZ_ROSETTA_NOT_SUPPORTED = 0, VZ_ROSETTA_NOT_INSTALLED = 1, VZ_ROSETTA_INSTALLED = 2 };

#endif
