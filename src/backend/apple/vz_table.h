/* Every class, selector, type encoding and macOS version of Apple's frameworks that this library uses: the
 * one place where they are spelled. Includes nothing and declares nothing; the lists are expanded by vz.h
 * (numbers, calls) and vz_table.c (data), and by tests.
 *
 * VZ_CLASSES(C)    C(name, arch, major, minor): the class exists since macOS major.minor. `arch` is ANY or
 *                  ARM64 (Apple silicon only).
 * VZ_METHODS(M)    M(class, name, kind, selector, shape, arch, major, minor): `kind` is I for an instance and
 * C for a class method, `name` is what C calls it (class_name), `class` the one that declares it.
 * VZ_CALLBACKS(P)  P(protocol, name, selector, shape, major, minor): optional methods that delegates of ours
 *                  implement.
 * VZ_SHAPE_*       type encodings (64-bit, frame offsets included), named after their letters: what is
 *                  returned, an underscore, the arguments. o object, s C string, x const void *, p objects,
 *                  e NSError **, b block, B BOOL, i int, I uint32_t, q NSInteger, Q NSUInteger or uint64_t,
 *                  d double, v void. */
#ifndef BACKEND_APPLE_VZ_TABLE_H
#define BACKEND_APPLE_VZ_TABLE_H

/* BOOL is bool on Apple silicon and signed char on x86-64. */
#if defined(__aarch64__)
#define VZ_BOOL "B"
#else
#define VZ_BOOL "c"
#endif

#define VZ_SHAPE_o_ "@16@0:8"
#define VZ_SHAPE_o_o "@24@0:8@16"
#define VZ_SHAPE_o_oo "@32@0:8@16@24"
#define VZ_SHAPE_o_s "@24@0:8r*16"
#define VZ_SHAPE_o_e "@24@0:8^@16"
#define VZ_SHAPE_o_Q "@24@0:8Q16"
#define VZ_SHAPE_o_oB "@28@0:8@16" VZ_BOOL "24"
#define VZ_SHAPE_o_iB "@24@0:8i16" VZ_BOOL "20"
#define VZ_SHAPE_o_qq "@32@0:8q16q24"
#define VZ_SHAPE_o_oBe "@36@0:8@16" VZ_BOOL "24^@28"
#define VZ_SHAPE_o_oQe "@40@0:8@16Q24^@32"
#define VZ_SHAPE_o_oBqe "@44@0:8@16" VZ_BOOL "24q28^@36"
#define VZ_SHAPE_o_oBqqe "@52@0:8@16" VZ_BOOL "24q28q36^@44"
#define VZ_SHAPE_o_odBqe "@52@0:8@16d24" VZ_BOOL "32q36^@44"
#define VZ_SHAPE_o_pQ "@32@0:8r^@16Q24"       /* objects */
#define VZ_SHAPE_o_ppQ "@40@0:8r^@16r^@24Q32" /* objects, keys */
#define VZ_SHAPE_o_xQ "@32@0:8r^v16Q24"       /* bytes */
#define VZ_SHAPE_s_ "r*16@0:8"
#define VZ_SHAPE_x_ "r^v16@0:8"
#define VZ_SHAPE_B_ VZ_BOOL "16@0:8"
#define VZ_SHAPE_B_e VZ_BOOL "24@0:8^@16"
#define VZ_SHAPE_B_oe VZ_BOOL "32@0:8@16^@24"
#define VZ_SHAPE_B_ooo VZ_BOOL "40@0:8@16@24@32"
#define VZ_SHAPE_i_ "i16@0:8"
#define VZ_SHAPE_I_ "I16@0:8"
#define VZ_SHAPE_q_ "q16@0:8"
#define VZ_SHAPE_Q_ "Q16@0:8"
#define VZ_SHAPE_v_o "v24@0:8@16"
#define VZ_SHAPE_v_oo "v32@0:8@16@24"
#define VZ_SHAPE_v_ooo "v40@0:8@16@24@32"
#define VZ_SHAPE_v_B "v20@0:8" VZ_BOOL "16"
#define VZ_SHAPE_v_I "v20@0:8I16"
#define VZ_SHAPE_v_q "v24@0:8q16"
#define VZ_SHAPE_v_Q "v24@0:8Q16"
#define VZ_SHAPE_v_b "v24@0:8@?16"
#define VZ_SHAPE_v_ob "v32@0:8@16@?24"
#define VZ_SHAPE_v_Ib "v28@0:8I16@?20"
#define VZ_SHAPE_v_oI "v28@0:8@16I24"
#define VZ_SHAPE_v_oQ "v32@0:8@16Q24"

#define VZ_CLASSES(C)                                                                                        \
    /* Foundation */                                                                                         \
    C(NSObject, ANY, 11, 0)                                                                                  \
    C(NSString, ANY, 11, 0)                                                                                  \
    C(NSURL, ANY, 11, 0)                                                                                     \
    C(NSArray, ANY, 11, 0)                                                                                   \
    C(NSDictionary, ANY, 11, 0)                                                                              \
    C(NSData, ANY, 11, 0)                                                                                    \
    C(NSError, ANY, 11, 0)                                                                                   \
    C(NSFileHandle, ANY, 11, 0)                                                                              \
    C(NSUUID, ANY, 11, 0)                                                                                    \
    /* the machine */                                                                                        \
    C(VZVirtualMachine, ANY, 11, 0)                                                                          \
    C(VZVirtualMachineConfiguration, ANY, 11, 0)                                                             \
    /* boot loaders and platform */                                                                          \
    C(VZLinuxBootLoader, ANY, 11, 0)                                                                         \
    C(VZEFIBootLoader, ANY, 13, 0)                                                                           \
    C(VZEFIVariableStore, ANY, 13, 0)                                                                        \
    C(VZGenericPlatformConfiguration, ANY, 12, 0)                                                            \
    C(VZGenericMachineIdentifier, ANY, 13, 0)                                                                \
    /* storage */                                                                                            \
    C(VZDiskImageStorageDeviceAttachment, ANY, 11, 0)                                                        \
    C(VZDiskBlockDeviceStorageDeviceAttachment, ANY, 14, 0)                                                  \
    C(VZNetworkBlockDeviceStorageDeviceAttachment, ANY, 14, 0)                                               \
    C(VZVirtioBlockDeviceConfiguration, ANY, 11, 0)                                                          \
    C(VZNVMExpressControllerDeviceConfiguration, ANY, 14, 0)                                                 \
    C(VZUSBMassStorageDeviceConfiguration, ANY, 13, 0)                                                       \
    /* network */                                                                                            \
    C(VZMACAddress, ANY, 11, 0)                                                                              \
    C(VZNATNetworkDeviceAttachment, ANY, 11, 0)                                                              \
    C(VZBridgedNetworkDeviceAttachment, ANY, 11, 0)                                                          \
    C(VZBridgedNetworkInterface, ANY, 11, 0)                                                                 \
    C(VZFileHandleNetworkDeviceAttachment, ANY, 11, 0)                                                       \
    C(VZNetworkDeviceConfiguration, ANY, 11, 0)                                                              \
    C(VZVirtioNetworkDeviceConfiguration, ANY, 11, 0)                                                        \
    C(VZNetworkDevice, ANY, 12, 0)                                                                           \
    /* serial ports and consoles */                                                                          \
    C(VZFileHandleSerialPortAttachment, ANY, 11, 0)                                                          \
    C(VZFileSerialPortAttachment, ANY, 11, 0)                                                                \
    C(VZSerialPortConfiguration, ANY, 11, 0)                                                                 \
    C(VZVirtioConsoleDeviceSerialPortConfiguration, ANY, 11, 0)                                              \
    C(VZVirtioConsoleDeviceConfiguration, ANY, 13, 0)                                                        \
    C(VZConsolePortConfiguration, ANY, 13, 0)                                                                \
    C(VZVirtioConsolePortConfiguration, ANY, 13, 0)                                                          \
    C(VZVirtioConsolePortConfigurationArray, ANY, 13, 0)                                                     \
    C(VZVirtioConsoleDevice, ANY, 13, 0)                                                                     \
    C(VZVirtioConsolePortArray, ANY, 13, 0)                                                                  \
    C(VZVirtioConsolePort, ANY, 13, 0)                                                                       \
    /* sockets */                                                                                            \
    C(VZVirtioSocketDeviceConfiguration, ANY, 11, 0)                                                         \
    C(VZVirtioSocketDevice, ANY, 11, 0)                                                                      \
    C(VZVirtioSocketListener, ANY, 11, 0)                                                                    \
    C(VZVirtioSocketConnection, ANY, 11, 0)                                                                  \
    /* entropy and balloon */                                                                                \
    C(VZVirtioEntropyDeviceConfiguration, ANY, 11, 0)                                                        \
    C(VZVirtioTraditionalMemoryBalloonDeviceConfiguration, ANY, 11, 0)                                       \
    C(VZVirtioTraditionalMemoryBalloonDevice, ANY, 11, 0)                                                    \
    /* shared directories */                                                                                 \
    C(VZSharedDirectory, ANY, 12, 0)                                                                         \
    C(VZSingleDirectoryShare, ANY, 12, 0)                                                                    \
    C(VZMultipleDirectoryShare, ANY, 12, 0)                                                                  \
    C(VZVirtioFileSystemDeviceConfiguration, ANY, 12, 0)                                                     \
    C(VZVirtioFileSystemDevice, ANY, 12, 0)                                                                  \
    C(VZLinuxRosettaDirectoryShare, ARM64, 13, 0)                                                            \
    /* graphics and input */                                                                                 \
    C(VZVirtioGraphicsDeviceConfiguration, ANY, 13, 0)                                                       \
    C(VZVirtioGraphicsScanoutConfiguration, ANY, 13, 0)                                                      \
    C(VZUSBKeyboardConfiguration, ANY, 12, 0)                                                                \
    C(VZUSBScreenCoordinatePointingDeviceConfiguration, ANY, 12, 0)                                          \
    /* sound */                                                                                              \
    C(VZVirtioSoundDeviceConfiguration, ANY, 12, 0)                                                          \
    C(VZVirtioSoundDeviceInputStreamConfiguration, ANY, 12, 0)                                               \
    C(VZVirtioSoundDeviceOutputStreamConfiguration, ANY, 12, 0)                                              \
    C(VZHostAudioInputStreamSource, ANY, 12, 0)                                                              \
    C(VZHostAudioOutputStreamSink, ANY, 12, 0)

#define VZ_METHODS_FOUNDATION(M)                                                                             \
    M(NSObject, alloc, C, "alloc", o_, ANY, 11, 0)                                                           \
    M(NSObject, init, I, "init", o_, ANY, 11, 0)                                                             \
    M(NSString, stringWithUTF8String, C, "stringWithUTF8String:", o_s, ANY, 11, 0)                           \
    M(NSString, UTF8String, I, "UTF8String", s_, ANY, 11, 0)                                                 \
    M(NSURL, fileURLWithPath, C, "fileURLWithPath:isDirectory:", o_oB, ANY, 11, 0)                           \
    M(NSURL, URLWithString, C, "URLWithString:", o_o, ANY, 11, 0)                                            \
    M(NSArray, arrayWithObjects, C, "arrayWithObjects:count:", o_pQ, ANY, 11, 0)                             \
    M(NSArray, count, I, "count", Q_, ANY, 11, 0)                                                            \
    M(NSArray, objectAtIndex, I, "objectAtIndex:", o_Q, ANY, 11, 0)                                          \
    M(NSDictionary, dictionaryWithObjects, C, "dictionaryWithObjects:forKeys:count:", o_ppQ, ANY, 11, 0)     \
    M(NSDictionary, objectForKey, I, "objectForKey:", o_o, ANY, 11, 0)                                       \
    M(NSData, dataWithBytes, C, "dataWithBytes:length:", o_xQ, ANY, 11, 0)                                   \
    M(NSData, bytes, I, "bytes", x_, ANY, 11, 0)                                                             \
    M(NSData, length, I, "length", Q_, ANY, 11, 0)                                                           \
    M(NSError, code, I, "code", q_, ANY, 11, 0)                                                              \
    M(NSError, domain, I, "domain", o_, ANY, 11, 0)                                                          \
    M(NSError, userInfo, I, "userInfo", o_, ANY, 11, 0)                                                      \
    M(NSError, localizedDescription, I, "localizedDescription", o_, ANY, 11, 0)                              \
    M(NSError, localizedFailureReason, I, "localizedFailureReason", o_, ANY, 11, 0)                          \
    M(NSFileHandle, initWithFileDescriptor, I, "initWithFileDescriptor:closeOnDealloc:", o_iB, ANY, 11, 0)   \
    M(NSUUID, initWithUUIDString, I, "initWithUUIDString:", o_o, ANY, 11, 0)

#define VZ_METHODS_MACHINE(M)                                                                                \
    M(VZVirtualMachine, isSupported, C, "isSupported", B_, ANY, 11, 0)                                       \
    M(VZVirtualMachine, initWithConfiguration, I, "initWithConfiguration:queue:", o_oo, ANY, 11, 0)          \
    M(VZVirtualMachine, setDelegate, I, "setDelegate:", v_o, ANY, 11, 0)                                     \
    M(VZVirtualMachine, canStop, I, "canStop", B_, ANY, 12, 0)                                               \
    M(VZVirtualMachine, canRequestStop, I, "canRequestStop", B_, ANY, 11, 0)                                 \
    M(VZVirtualMachine, consoleDevices, I, "consoleDevices", o_, ANY, 13, 0)                                 \
    M(VZVirtualMachine, directorySharingDevices, I, "directorySharingDevices", o_, ANY, 12, 0)               \
    M(VZVirtualMachine, memoryBalloonDevices, I, "memoryBalloonDevices", o_, ANY, 11, 0)                     \
    M(VZVirtualMachine, networkDevices, I, "networkDevices", o_, ANY, 12, 0)                                 \
    M(VZVirtualMachine, socketDevices, I, "socketDevices", o_, ANY, 11, 0)                                   \
    M(VZVirtualMachine, start, I, "startWithCompletionHandler:", v_b, ANY, 11, 0)                            \
    M(VZVirtualMachine, stop, I, "stopWithCompletionHandler:", v_b, ANY, 12, 0)                              \
    M(VZVirtualMachine, pause, I, "pauseWithCompletionHandler:", v_b, ANY, 11, 0)                            \
    M(VZVirtualMachine, resume, I, "resumeWithCompletionHandler:", v_b, ANY, 11, 0)                          \
    M(VZVirtualMachine, restore, I, "restoreMachineStateFromURL:completionHandler:", v_ob, ARM64, 14, 0)     \
    M(VZVirtualMachine, save, I, "saveMachineStateToURL:completionHandler:", v_ob, ARM64, 14, 0)             \
    M(VZVirtualMachine, requestStop, I, "requestStopWithError:", B_e, ANY, 11, 0)

#define VZ_METHODS_CONFIGURATION(M)                                                                          \
    M(VZVirtualMachineConfiguration, setBootLoader, I, "setBootLoader:", v_o, ANY, 11, 0)                    \
    M(VZVirtualMachineConfiguration, setMemorySize, I, "setMemorySize:", v_Q, ANY, 11, 0)                    \
    M(VZVirtualMachineConfiguration, setCPUCount, I, "setCPUCount:", v_Q, ANY, 11, 0)                        \
    M(VZVirtualMachineConfiguration, setPlatform, I, "setPlatform:", v_o, ANY, 12, 0)                        \
    M(VZVirtualMachineConfiguration, setAudioDevices, I, "setAudioDevices:", v_o, ANY, 12, 0)                \
    M(VZVirtualMachineConfiguration, setConsoleDevices, I, "setConsoleDevices:", v_o, ANY, 13, 0)            \
    M(VZVirtualMachineConfiguration, setDirectorySharingDevices, I, "setDirectorySharingDevices:", v_o, ANY, \
      12, 0)                                                                                                 \
    M(VZVirtualMachineConfiguration, setEntropyDevices, I, "setEntropyDevices:", v_o, ANY, 11, 0)            \
    M(VZVirtualMachineConfiguration, setGraphicsDevices, I, "setGraphicsDevices:", v_o, ANY, 12, 0)          \
    M(VZVirtualMachineConfiguration, setKeyboards, I, "setKeyboards:", v_o, ANY, 12, 0)                      \
    M(VZVirtualMachineConfiguration, setMemoryBalloonDevices, I, "setMemoryBalloonDevices:", v_o, ANY, 11,   \
      0)                                                                                                     \
    M(VZVirtualMachineConfiguration, setNetworkDevices, I, "setNetworkDevices:", v_o, ANY, 11, 0)            \
    M(VZVirtualMachineConfiguration, setPointingDevices, I, "setPointingDevices:", v_o, ANY, 12, 0)          \
    M(VZVirtualMachineConfiguration, setSerialPorts, I, "setSerialPorts:", v_o, ANY, 11, 0)                  \
    M(VZVirtualMachineConfiguration, setSocketDevices, I, "setSocketDevices:", v_o, ANY, 11, 0)              \
    M(VZVirtualMachineConfiguration, setStorageDevices, I, "setStorageDevices:", v_o, ANY, 11, 0)            \
    M(VZVirtualMachineConfiguration, validate, I, "validateWithError:", B_e, ANY, 11, 0)                     \
    M(VZVirtualMachineConfiguration, validateSaveRestoreSupport, I,                                          \
      "validateSaveRestoreSupportWithError:", B_e, ARM64, 14, 0)                                             \
    M(VZVirtualMachineConfiguration, minimumAllowedMemorySize, C, "minimumAllowedMemorySize", Q_, ANY, 11,   \
      0)                                                                                                     \
    M(VZVirtualMachineConfiguration, maximumAllowedMemorySize, C, "maximumAllowedMemorySize", Q_, ANY, 11,   \
      0)                                                                                                     \
    M(VZVirtualMachineConfiguration, minimumAllowedCPUCount, C, "minimumAllowedCPUCount", Q_, ANY, 11, 0)    \
    M(VZVirtualMachineConfiguration, maximumAllowedCPUCount, C, "maximumAllowedCPUCount", Q_, ANY, 11, 0)

#define VZ_METHODS_BOOT(M)                                                                                   \
    M(VZLinuxBootLoader, initWithKernelURL, I, "initWithKernelURL:", o_o, ANY, 11, 0)                        \
    M(VZLinuxBootLoader, setCommandLine, I, "setCommandLine:", v_o, ANY, 11, 0)                              \
    M(VZLinuxBootLoader, setInitialRamdiskURL, I, "setInitialRamdiskURL:", v_o, ANY, 11, 0)                  \
    M(VZEFIBootLoader, init, I, "init", o_, ANY, 13, 0)                                                      \
    M(VZEFIBootLoader, setVariableStore, I, "setVariableStore:", v_o, ANY, 13, 0)                            \
    M(VZEFIVariableStore, initWithURL, I, "initWithURL:", o_o, ANY, 13, 0)                                   \
    M(VZEFIVariableStore, initCreating, I, "initCreatingVariableStoreAtURL:options:error:", o_oQe, ANY, 13,  \
      0)                                                                                                     \
    M(VZGenericPlatformConfiguration, init, I, "init", o_, ANY, 12, 0)                                       \
    M(VZGenericPlatformConfiguration, setMachineIdentifier, I, "setMachineIdentifier:", v_o, ANY, 13, 0)     \
    M(VZGenericPlatformConfiguration, isNestedVirtualizationSupported, C, "isNestedVirtualizationSupported", \
      B_, ANY, 15, 0)                                                                                        \
    M(VZGenericPlatformConfiguration, setNestedVirtualizationEnabled, I,                                     \
      "setNestedVirtualizationEnabled:", v_B, ANY, 15, 0)                                                    \
    M(VZGenericMachineIdentifier, init, I, "init", o_, ANY, 13, 0)                                           \
    M(VZGenericMachineIdentifier, initWithData, I, "initWithDataRepresentation:", o_o, ANY, 13, 0)           \
    M(VZGenericMachineIdentifier, data, I, "dataRepresentation", o_, ANY, 13, 0)

#define VZ_METHODS_STORAGE(M)                                                                                \
    M(VZDiskImageStorageDeviceAttachment, initWithURL, I, "initWithURL:readOnly:error:", o_oBe, ANY, 11, 0)  \
    M(VZDiskImageStorageDeviceAttachment, initWithURLAndModes, I,                                            \
      "initWithURL:readOnly:cachingMode:synchronizationMode:error:", o_oBqqe, ANY, 12, 0)                    \
    M(VZDiskBlockDeviceStorageDeviceAttachment, initWithFileHandle, I,                                       \
      "initWithFileHandle:readOnly:synchronizationMode:error:", o_oBqe, ANY, 14, 0)                          \
    M(VZNetworkBlockDeviceStorageDeviceAttachment, initWithURL, I,                                           \
      "initWithURL:timeout:forcedReadOnly:synchronizationMode:error:", o_odBqe, ANY, 14, 0)                  \
    M(VZNetworkBlockDeviceStorageDeviceAttachment, validateURL, C, "validateURL:error:", B_oe, ANY, 14, 0)   \
    M(VZVirtioBlockDeviceConfiguration, initWithAttachment, I, "initWithAttachment:", o_o, ANY, 11, 0)       \
    M(VZVirtioBlockDeviceConfiguration, setBlockDeviceIdentifier, I, "setBlockDeviceIdentifier:", v_o, ANY,  \
      12, 3)                                                                                                 \
    M(VZNVMExpressControllerDeviceConfiguration, initWithAttachment, I, "initWithAttachment:", o_o, ANY, 14, \
      0)                                                                                                     \
    M(VZUSBMassStorageDeviceConfiguration, initWithAttachment, I, "initWithAttachment:", o_o, ANY, 13, 0)    \
    M(VZUSBMassStorageDeviceConfiguration, setUuid, I, "setUuid:", v_o, ANY, 15, 0)

#define VZ_METHODS_NETWORK(M)                                                                                \
    M(VZMACAddress, initWithString, I, "initWithString:", o_o, ANY, 11, 0)                                   \
    M(VZNATNetworkDeviceAttachment, init, I, "init", o_, ANY, 11, 0)                                         \
    M(VZBridgedNetworkDeviceAttachment, initWithInterface, I, "initWithInterface:", o_o, ANY, 11, 0)         \
    M(VZBridgedNetworkInterface, networkInterfaces, C, "networkInterfaces", o_, ANY, 11, 0)                  \
    M(VZBridgedNetworkInterface, identifier, I, "identifier", o_, ANY, 11, 0)                                \
    M(VZBridgedNetworkInterface, localizedDisplayName, I, "localizedDisplayName", o_, ANY, 11, 0)            \
    M(VZFileHandleNetworkDeviceAttachment, initWithFileHandle, I, "initWithFileHandle:", o_o, ANY, 11, 0)    \
    M(VZFileHandleNetworkDeviceAttachment, setMaximumTransmissionUnit, I,                                    \
      "setMaximumTransmissionUnit:", v_q, ANY, 13, 0)                                                        \
    M(VZNetworkDeviceConfiguration, setMACAddress, I, "setMACAddress:", v_o, ANY, 11, 0)                     \
    M(VZNetworkDeviceConfiguration, setAttachment, I, "setAttachment:", v_o, ANY, 11, 0)                     \
    M(VZVirtioNetworkDeviceConfiguration, init, I, "init", o_, ANY, 11, 0)                                   \
    M(VZNetworkDevice, setAttachment, I, "setAttachment:", v_o, ANY, 12, 0)

#define VZ_METHODS_CONSOLE(M)                                                                                \
    M(VZFileHandleSerialPortAttachment, init, I, "initWithFileHandleForReading:fileHandleForWriting:", o_oo, \
      ANY, 11, 0)                                                                                            \
    M(VZFileSerialPortAttachment, init, I, "initWithURL:append:error:", o_oBe, ANY, 11, 0)                   \
    M(VZSerialPortConfiguration, setAttachment, I, "setAttachment:", v_o, ANY, 11, 0)                        \
    M(VZVirtioConsoleDeviceSerialPortConfiguration, init, I, "init", o_, ANY, 11, 0)                         \
    M(VZVirtioConsoleDeviceConfiguration, init, I, "init", o_, ANY, 13, 0)                                   \
    M(VZVirtioConsoleDeviceConfiguration, ports, I, "ports", o_, ANY, 13, 0)                                 \
    M(VZConsolePortConfiguration, setAttachment, I, "setAttachment:", v_o, ANY, 13, 0)                       \
    M(VZVirtioConsolePortConfiguration, init, I, "init", o_, ANY, 13, 0)                                     \
    M(VZVirtioConsolePortConfiguration, setName, I, "setName:", v_o, ANY, 13, 0)                             \
    M(VZVirtioConsolePortConfiguration, setIsConsole, I, "setIsConsole:", v_B, ANY, 13, 0)                   \
    M(VZVirtioConsolePortConfigurationArray, setMaximumPortCount, I, "setMaximumPortCount:", v_I, ANY, 13,   \
      0)                                                                                                     \
    M(VZVirtioConsolePortConfigurationArray, setObject, I, "setObject:atIndexedSubscript:", v_oQ, ANY, 13,   \
      0)                                                                                                     \
    M(VZVirtioConsoleDevice, setDelegate, I, "setDelegate:", v_o, ANY, 13, 0)                                \
    M(VZVirtioConsoleDevice, ports, I, "ports", o_, ANY, 13, 0)                                              \
    M(VZVirtioConsolePortArray, objectAtIndexedSubscript, I, "objectAtIndexedSubscript:", o_Q, ANY, 13, 0)   \
    M(VZVirtioConsolePort, setAttachment, I, "setAttachment:", v_o, ANY, 13, 0)

#define VZ_METHODS_SOCKET(M)                                                                                 \
    M(VZVirtioSocketDeviceConfiguration, init, I, "init", o_, ANY, 11, 0)                                    \
    M(VZVirtioSocketDevice, setSocketListener, I, "setSocketListener:forPort:", v_oI, ANY, 11, 0)            \
    M(VZVirtioSocketDevice, removeSocketListener, I, "removeSocketListenerForPort:", v_I, ANY, 11, 0)        \
    M(VZVirtioSocketDevice, connectToPort, I, "connectToPort:completionHandler:", v_Ib, ANY, 11, 0)          \
    M(VZVirtioSocketListener, setDelegate, I, "setDelegate:", v_o, ANY, 11, 0)                               \
    M(VZVirtioSocketConnection, destinationPort, I, "destinationPort", I_, ANY, 11, 0)                       \
    M(VZVirtioSocketConnection, sourcePort, I, "sourcePort", I_, ANY, 11, 0)                                 \
    M(VZVirtioSocketConnection, fileDescriptor, I, "fileDescriptor", i_, ANY, 11, 0)

#define VZ_METHODS_MEMORY(M)                                                                                 \
    M(VZVirtioEntropyDeviceConfiguration, init, I, "init", o_, ANY, 11, 0)                                   \
    M(VZVirtioTraditionalMemoryBalloonDeviceConfiguration, init, I, "init", o_, ANY, 11, 0)                  \
    M(VZVirtioTraditionalMemoryBalloonDevice, setTarget, I, "setTargetVirtualMachineMemorySize:", v_Q, ANY,  \
      11, 0)

#define VZ_METHODS_SHARE(M)                                                                                  \
    M(VZSharedDirectory, initWithURL, I, "initWithURL:readOnly:", o_oB, ANY, 12, 0)                          \
    M(VZSingleDirectoryShare, initWithDirectory, I, "initWithDirectory:", o_o, ANY, 12, 0)                   \
    M(VZMultipleDirectoryShare, initWithDirectories, I, "initWithDirectories:", o_o, ANY, 12, 0)             \
    M(VZMultipleDirectoryShare, validateName, C, "validateName:error:", B_oe, ANY, 12, 0)                    \
    M(VZVirtioFileSystemDeviceConfiguration, initWithTag, I, "initWithTag:", o_o, ANY, 12, 0)                \
    M(VZVirtioFileSystemDeviceConfiguration, validateTag, C, "validateTag:error:", B_oe, ANY, 12, 0)         \
    M(VZVirtioFileSystemDeviceConfiguration, setShare, I, "setShare:", v_o, ANY, 12, 0)                      \
    M(VZVirtioFileSystemDevice, setShare, I, "setShare:", v_o, ANY, 12, 0)                                   \
    M(VZLinuxRosettaDirectoryShare, init, I, "initWithError:", o_e, ARM64, 13, 0)                            \
    M(VZLinuxRosettaDirectoryShare, availability, C, "availability", q_, ARM64, 13, 0)                       \
    M(VZLinuxRosettaDirectoryShare, install, C, "installRosettaWithCompletionHandler:", v_b, ARM64, 13, 0)

#define VZ_METHODS_GRAPHICS(M)                                                                               \
    M(VZVirtioGraphicsDeviceConfiguration, init, I, "init", o_, ANY, 13, 0)                                  \
    M(VZVirtioGraphicsDeviceConfiguration, setScanouts, I, "setScanouts:", v_o, ANY, 13, 0)                  \
    M(VZVirtioGraphicsScanoutConfiguration, init, I, "initWithWidthInPixels:heightInPixels:", o_qq, ANY, 13, \
      0)                                                                                                     \
    M(VZUSBKeyboardConfiguration, init, I, "init", o_, ANY, 12, 0)                                           \
    M(VZUSBScreenCoordinatePointingDeviceConfiguration, init, I, "init", o_, ANY, 12, 0)                     \
    M(VZVirtioSoundDeviceConfiguration, init, I, "init", o_, ANY, 12, 0)                                     \
    M(VZVirtioSoundDeviceConfiguration, setStreams, I, "setStreams:", v_o, ANY, 12, 0)                       \
    M(VZVirtioSoundDeviceInputStreamConfiguration, init, I, "init", o_, ANY, 12, 0)                          \
    M(VZVirtioSoundDeviceInputStreamConfiguration, setSource, I, "setSource:", v_o, ANY, 12, 0)              \
    M(VZVirtioSoundDeviceOutputStreamConfiguration, init, I, "init", o_, ANY, 12, 0)                         \
    M(VZVirtioSoundDeviceOutputStreamConfiguration, setSink, I, "setSink:", v_o, ANY, 12, 0)                 \
    M(VZHostAudioInputStreamSource, init, I, "init", o_, ANY, 12, 0)                                         \
    M(VZHostAudioOutputStreamSink, init, I, "init", o_, ANY, 12, 0)

#define VZ_METHODS(M)                                                                                        \
    VZ_METHODS_FOUNDATION(M)                                                                                 \
    VZ_METHODS_MACHINE(M)                                                                                    \
    VZ_METHODS_CONFIGURATION(M)                                                                              \
    VZ_METHODS_BOOT(M)                                                                                       \
    VZ_METHODS_STORAGE(M)                                                                                    \
    VZ_METHODS_NETWORK(M)                                                                                    \
    VZ_METHODS_CONSOLE(M)                                                                                    \
    VZ_METHODS_SOCKET(M)                                                                                     \
    VZ_METHODS_MEMORY(M)                                                                                     \
    VZ_METHODS_SHARE(M)                                                                                      \
    VZ_METHODS_GRAPHICS(M)

#define VZ_CALLBACKS(P)                                                                                      \
    P(VZVirtualMachineDelegate, guestDidStop, "guestDidStopVirtualMachine:", v_o, 11, 0)                     \
    P(VZVirtualMachineDelegate, didStopWithError, "virtualMachine:didStopWithError:", v_oo, 11, 0)           \
    P(VZVirtualMachineDelegate, attachmentWasDisconnected,                                                   \
      "virtualMachine:networkDevice:attachmentWasDisconnectedWithError:", v_ooo, 12, 0)                      \
    P(VZVirtioConsoleDeviceDelegate, didOpenPort, "consoleDevice:didOpenPort:", v_oo, 13, 0)                 \
    P(VZVirtioConsoleDeviceDelegate, didClosePort, "consoleDevice:didClosePort:", v_oo, 13, 0)               \
    P(VZVirtioSocketListenerDelegate, shouldAcceptNewConnection,                                             \
      "listener:shouldAcceptNewConnection:fromSocketDevice:", B_ooo, 11, 0)

#endif
